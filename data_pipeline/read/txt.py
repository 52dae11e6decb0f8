"""Plain text: one file is one document, its name (without the folder) is its id."""

from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.read.document import Document

SUFFIXES = (".txt",)


def read(path: Path, text_field: str, id_field: str, advance: Callable[[int], object]) -> Iterator[Document]:
    """Yield the file's one document. It must be UTF-8; a byte order mark is dropped."""
    data = path.read_bytes()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}:{line}: byte {error.start} is not UTF-8; convert the file to UTF-8.") from error
    yield Document(text, str(path), 0, path.name)
    advance(len(data))
