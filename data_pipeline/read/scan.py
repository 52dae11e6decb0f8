"""One pass over a file before it is read: its size, its digest, and where it may be cut."""

import codecs
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.read import dataset
from data_pipeline.read.document import Place
from data_pipeline.read.formats import format_of
from data_pipeline.read.input import compression_of
from data_pipeline.read.location import asking, filesystem_of, is_url
from data_pipeline.read.settings import Source

_BLOCK = 1 << 20
_BLANK = re.compile(rb"\n[ \t\r\x0b\x0c]*(?=\n)")


@dataclass(frozen=True, slots=True)
class Scan:
    """What one pass over a file tells."""

    size: int
    """Bytes on the disk; 0 where that is not known."""
    sha256: str
    """Digest of those bytes; empty for what is not on this machine."""
    cuts: tuple[Place, ...] = ()
    """Starts of records in it (none at its very beginning) at which it may be cut into pieces."""


def scan(path: str, source: Source, every: int, advance: Callable[[int], object] = lambda consumed: None) -> Scan:
    """Digest a file, and find the starts of lines after every `every` bytes, about, where it can be cut.

    Files elsewhere are not read: only their size is asked for.
    """
    if path.startswith(dataset.SCHEME):
        return Scan(0, "")
    if is_url(path):
        filesystem, inside = filesystem_of(path)
        return Scan(int(asking(path, filesystem.size, inside) or 0), "")
    cutter = _Cutter(every) if format_of(path, source).can_be_cut and not compression_of(path) else None
    digest, size = hashlib.sha256(), 0
    try:
        with Path(path).open("rb", buffering=0) as file:
            while block := file.read(_BLOCK):
                digest.update(block)
                size += len(block)
                if cutter:
                    cutter.add(block)
                advance(len(block))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from error
    return Scan(size, digest.hexdigest(), cutter.cuts(size) if cutter else ())


class _Cutter:
    """Counts the lines that are not blank, and notes where pieces may begin."""

    def __init__(self, every: int) -> None:
        self._every = self._target = max(1, every)
        self._offset = self._records = 0
        self._open = b""
        self._cuts: list[Place] = []

    def add(self, block: bytes) -> None:
        """Take the next bytes of the file."""
        if self._offset == 0 and block.startswith(codecs.BOM_UTF8):
            block = b"   " + block[3:]
        at = 0
        while line := block.find(b"\n", max(at, self._target - 1 - self._offset)) + 1:
            self._count(block[at:line])
            self._cuts.append(Place(self._records, self._offset + line))
            self._target = self._offset + line + self._every
            at = line
        self._count(block[at:])
        self._offset += len(block)

    def cuts(self, size: int) -> tuple[Place, ...]:
        """The places found; the end of the file is none."""
        return tuple(place for place in self._cuts if place.offset < size)

    def _count(self, piece: bytes) -> None:
        """Count the lines that end in a piece; of the one that goes on, keep only whether it is blank so far."""
        data = b"\n" + self._open + piece
        self._records += data.count(b"\n") - 1 - len(_BLANK.findall(data))
        self._open = b"x" if data[data.rfind(b"\n") :].strip() else b""
