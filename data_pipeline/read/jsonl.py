"""JSON Lines, plain or compressed with gzip or zstandard: one object a line."""

import codecs
import contextlib
import gzip
import io
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import orjson
import pyarrow as pa

from data_pipeline.errors import DataError
from data_pipeline.read.document import Document, to_document

SUFFIXES = (".jsonl", ".jsonl.gz", ".jsonl.zst")


def read(path: Path, text_field: str, id_field: str, advance: Callable[[int], object]) -> Iterator[Document]:
    """Yield the documents of one file; blank lines and a byte order mark are passed over.

    `advance` is told the bytes of disk consumed.
    """
    offset = position = consumed = 0
    with path.open("rb") as raw:
        for number, line in enumerate(_lines(_uncompressed(raw, path.name), path), start=1):
            if _record(line, offset).strip():
                yield _parse(line, path, number, position, text_field, id_field, offset)
                position += 1
            offset += len(line)
            if raw.tell() != consumed:
                advance(raw.tell() - consumed)
                consumed = raw.tell()


def identities(
    path: Path, places: Sequence[tuple[int, int]], text_field: str, id_field: str
) -> Iterator[tuple[int, str]]:
    """Yield (position, identity) of the records at the places, (position, offset) in ascending order."""
    with path.open("rb") as raw:
        stream = _uncompressed(raw, path.name)
        here = 0
        for position, offset in places:
            if stream is raw:
                stream.seek(offset)
            else:
                _skip(stream, offset - here)
            line = stream.readline()
            here = offset + len(line)
            with contextlib.suppress(DataError):
                yield position, _parse(line, path, position + 1, position, text_field, id_field, offset).identity


def _uncompressed(raw: BinaryIO, name: str) -> BinaryIO:
    """Return a buffered stream of the file's uncompressed bytes."""
    if name.endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), 1 << 20)
    if name.endswith(".zst"):
        # Arrow's reader, because zstandard's own takes a file cut short for one that ends there.
        return io.BufferedReader(pa.CompressedInputStream(raw, "zstd"), 1 << 20)
    return raw


def _skip(stream: BinaryIO, count: int) -> None:
    while count > 0 and (block := stream.read(min(count, 1 << 20))):
        count -= len(block)


def _lines(stream: BinaryIO, path: Path) -> Iterator[bytes]:
    """Iterate over lines; a damaged compressed stream becomes a sentence."""
    try:
        yield from stream
    except (EOFError, OSError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{path}: the compressed file is damaged or cut short ({error}); fetch it again.") from error


def _record(line: bytes, offset: int) -> bytes:
    """The line without the byte order mark that a file may begin with."""
    return line if offset else line.removeprefix(codecs.BOM_UTF8)


def _parse(
    line: bytes, path: Path, number: int, position: int, text_field: str, id_field: str, offset: int
) -> Document:
    try:
        return to_document(orjson.loads(_record(line, offset)), str(path), position, text_field, id_field, offset)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path}:{number}: not valid JSON ({error}); mend or remove this line.") from error
    except ValueError as error:
        raise DataError(f"{path}:{number}: {error}.") from error
