"""Plain text: one file is one document, its name (without the folder) is its id."""

from collections.abc import Callable, Iterator, Sequence
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


def identities(
    path: Path, places: Sequence[tuple[int, int]], text_field: str, id_field: str
) -> Iterator[tuple[int, str]]:
    """Yield (position, identity) of the file's one document, when the file is there."""
    if path.is_file():
        yield from ((position, path.name) for position, _ in places if position == 0)
