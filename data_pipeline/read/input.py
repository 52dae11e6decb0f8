"""One file to read: where it lies, what its documents have in common, and its uncompressed bytes."""

import contextlib
import functools
import gzip
import io
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import pyarrow as pa

from data_pipeline.read.document import Broken, Document, no_field
from data_pipeline.read.location import file_name, open_file, shown
from data_pipeline.read.settings import FilesSource, Source

LIMIT = 1 << 27
"""Bytes of one record, at most: a longer line, value or page is a broken record, so that memory stays bounded."""
BLOCK = 1 << 16
"""Uncompressed bytes read at once: always as many, from the file's start, so that how much can be read before a
damaged place never depends on where the reading began."""
LARGEST = 1 << 34
"""Bytes to which a compressed file may unpack that cannot be read from front to back (.parquet, .arrow)."""
COMPRESSIONS = (".gz", ".zst")
"""How the name of a compressed file ends."""


class Damaged(Exception):
    """The file's bytes make no sense from here on: a compressed stream was cut short, or a bit is flipped."""


@dataclass(frozen=True)
class Input:
    """A file, and what its readers need to know."""

    path: str
    """A path of this machine or a URL."""
    name: str
    """What documents call it: the same without credentials."""
    text_field: str = "text"
    """Field of a record that holds the text."""
    id_field: str = "id"
    """Field of a record that holds the document's id."""
    language: str | None = None
    """Language of all documents, where the settings say it."""
    encoding: str | None = None
    """Encoding of text that has no rule of its own, where the settings say it."""
    advance: Callable[[int], object] = lambda consumed: None
    """Called with the bytes of disk consumed since its last call, for a progress bar."""

    @property
    def compression(self) -> str:
        """`.gz`, `.zst` or nothing."""
        return compression_of(self.path)

    def document(
        self, record: Any, position: int, offset: int = 0, origin: bytes = b"", is_html: bool = False
    ) -> Document | Broken:
        """Turn a record, made of the bytes `origin`, into a document, or say what is wrong with it."""
        if type(record) is dict and type(text := record.get(self.text_field)) is str and len(text) <= LIMIT:
            identity = record.get(self.id_field)
            try:
                name = None if identity is None else str(identity)
            except RecursionError:
                return self.broken(position, offset, f"the field {self.id_field!r} is nested too deep", origin)
            return Document(text, self.name, position, name, offset, self.language, is_html)
        return self.broken(position, offset, _no_document(record, self.text_field), origin)

    def broken(self, position: int, offset: int, reason: str, excerpt: bytes = b"") -> Broken:
        """A record of this file that cannot be read."""
        return Broken(self.name, position, offset, reason, bytes(excerpt[:200]))

    @contextlib.contextmanager
    def opened(self, counted: bool = True) -> Iterator[BinaryIO]:
        """The file as it lies on the disk, unbuffered; if `counted`, `advance` is told what is read of it."""
        advance = self.advance if counted else lambda consumed: None
        with open_file(self.path) as file, _Counted(file, advance) as counted_file:
            yield cast(BinaryIO, counted_file)

    @contextlib.contextmanager
    def uncompressed(self) -> Iterator["io.BufferedReader[Any]"]:
        """The file's uncompressed bytes; reading raises Damaged where they end too early or make no sense."""
        with (
            self.opened() as raw,
            io.BufferedReader(cast(Any, _uncompressed(raw, self.compression)), BLOCK) as stream,
        ):
            yield stream

    @contextlib.contextmanager
    def seekable(self) -> Iterator[BinaryIO]:
        """The file's uncompressed bytes, to read here and there; a compressed file is first unpacked into a nameless
        temporary one, and `advance` is told. Damaged when it cannot be unpacked, or becomes larger than LARGEST.
        """
        if not self.compression:
            with self.opened(counted=False) as raw:
                if raw.seekable():
                    yield raw
                    return
        with self.uncompressed() as stream, tempfile.TemporaryFile() as file:
            while block := stream.read1(BLOCK):
                file.write(block)
                if file.tell() > LARGEST:
                    raise Damaged(f"it unpacks to more than {LARGEST >> 30} GiB")
            file.seek(0)
            yield cast(BinaryIO, _Counted(file, lambda consumed: None))


def input_of(path: str, source: Source, advance: Callable[[int], object] = lambda consumed: None) -> Input:
    """What to read a file of a source with."""
    encoding = source.encoding if isinstance(source, FilesSource) else None
    return Input(path, shown(path), source.text_field, source.id_field, source.language, encoding, advance)


def _no_document(record: Any, text_field: str) -> str:
    """Say why a record is no document."""
    if not isinstance(record, dict):
        return f"expected an object with a field {text_field!r}, found {type(record).__name__}"
    if text_field not in record:
        return no_field(text_field, list(record))
    text = record[text_field]
    if not isinstance(text, str):
        return f"field {text_field!r} holds {type(text).__name__}, not text"
    return f"the text is longer than {LIMIT >> 20} Mi characters"


def compression_of(path: str) -> str:
    """`.gz`, `.zst` or nothing, by the end of the name."""
    name = file_name(path).lower()
    return next((suffix for suffix in COMPRESSIONS if name.endswith(suffix)), "")


def _uncompressed(raw: BinaryIO, compression: str) -> io.RawIOBase:
    if compression == ".gz":
        return _Checked(gzip.GzipFile(fileobj=raw).read1)
    if compression == ".zst":
        # Arrow's reader, because zstandard's own takes a file cut short for one that ends there.
        return _Checked(pa.CompressedInputStream(raw, "zstd").read)
    return cast(io.RawIOBase, raw)


class _Raw(io.RawIOBase):
    """A stream made from a function that gives at most so many bytes."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


class _Checked(_Raw):
    """An uncompressed stream that tells damage from an error of the disk."""

    def readinto(self, buffer: Any) -> int:
        try:
            return super().readinto(buffer)
        except (EOFError, OSError, zlib.error) as error:
            if is_damage(error):
                if "requires too much memory" in str(error):
                    problem = f"its `zstd --long` is of more than {LIMIT >> 20} MiB; compress it again without"
                else:
                    problem = f"the compressed file is damaged or cut short ({error}); fetch it again"
                raise Damaged(problem) from error
            raise


def is_damage(error: BaseException) -> bool:
    """True for bytes that make no sense, False for a disk or a network that fails."""
    return not isinstance(error, OSError) or error.errno is None


class _Counted(_Raw):
    """A file that tells how much of it is read."""

    def __init__(self, file: BinaryIO, advance: Callable[[int], object]) -> None:
        super().__init__(file.read)
        self._file, self._advance = file, advance

    def readinto(self, buffer: Any) -> int:
        count = self._file.readinto(buffer)  # type: ignore[attr-defined]
        self._advance(count)
        return int(count)

    def read(self, size: int | None = -1) -> bytes | None:
        """No more than there is: a damaged length must not make room for itself."""
        if size is not None and size > BLOCK and self.seekable():
            size = min(size, max(0, self._size - self.tell()))
        return super().read(-1 if size is None else size)

    @functools.cached_property
    def _size(self) -> int:
        here = self.tell()
        size = self.seek(0, os.SEEK_END)
        self.seek(here)
        return size

    def seekable(self) -> bool:
        return self._file.seekable()

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()
