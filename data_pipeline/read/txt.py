"""Plain text: one file is one document, its name (without the folder) is its id."""

from collections.abc import Iterator

from data_pipeline.read.document import Broken, Document, Place
from data_pipeline.read.input import Damaged, Input
from data_pipeline.read.lines import whole
from data_pipeline.read.location import file_name

SUFFIXES = (".txt",)


def read(file: Input, start: Place, end: int | None) -> Iterator[Document | Broken]:
    """Yield the file's one document: UTF-8, or what `encoding` says; a byte order mark is dropped."""
    if start.position > 0:
        return
    try:
        data = whole(file)
        yield Document(decode(data, file.encoding or "utf-8"), file.name, 0, file_name(file.path), 0, file.language)
    except (Damaged, ValueError) as error:
        yield file.broken(0, 0, str(error))


def decode(data: bytes, encoding: str) -> str:
    """Bytes as text. ValueError that says where they are no text."""
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"line {line}: byte {error.start} is not {encoding.upper()}; convert it to UTF-8, or say its `encoding`"
        ) from error
