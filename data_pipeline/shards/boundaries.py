"""Where the documents of a shard begin and end, whatever kind of file says so."""

import mmap
from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError

_BLOCK = 1 << 20
"""Documents looked at together, so that memory does not grow with the shard."""


class Boundaries(ABC):
    """The documents of one shard, one after another, without gaps; some may be empty."""

    path: Path
    """The file that says so."""
    num_documents: int

    @abstractmethod
    def ends(self, first: int, last: int) -> np.ndarray:
        """Return where documents first..last-1 end, in tokens from the shard's beginning: int64 [last - first]."""

    @abstractmethod
    def num_ended(self, token: int) -> int:
        """Count the documents that end at or before this token: the number of the document that holds it.

        A search by halves, so that even in damaged boundaries the document found holds the token, or there is none.
        """

    def span(self, document: int) -> tuple[int, int]:
        """Return the first token of a document and the one after its last."""
        first = int(self.ends(document - 1, document)[0]) if document else 0
        return first, int(self.ends(document, document + 1)[0])

    def in_blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield (number of the first document, ends of it and those after it), a million documents at a time."""
        for first in range(0, self.num_documents, _BLOCK):
            yield first, self.ends(first, min(first + _BLOCK, self.num_documents))

    def problem(self, num_tokens: int) -> str | None:
        """Say what is wrong with the boundaries of a shard of so many tokens, or nothing."""
        before = 0
        for first, ends in self.in_blocks():
            wrong = np.flatnonzero(ends < np.concatenate([[before], ends[:-1]]))  # a difference could overflow
            if len(wrong):
                return f"{self.path}: the boundaries do not add up from document {first + int(wrong[0])} on."
            before = int(ends[-1])
        if before != num_tokens:
            return f"{self.path}: its documents end at token {before:,}, the ids at {num_tokens:,}: they do not add up."
        return None


class Ends(Boundaries):
    """The documents' ends as raw u64, in tokens: what datatrove writes as .ds.index, and we beside other formats."""

    def __init__(self, path: Path) -> None:
        """Map the file. DataError when it cannot be read or is cut short."""
        view = map_file(path)
        if len(view) % 8:
            raise DataError(f"{path} has {len(view):,} bytes, not a multiple of 8: it was cut short; bring it back.")
        self.path = path
        self._ends = np.frombuffer(view, "<i8")
        self.num_documents = len(self._ends)

    def ends(self, first: int, last: int) -> np.ndarray:
        """Return the ends of documents first..last-1; one beyond int64 comes out negative."""
        return self._ends[first:last]

    def num_ended(self, token: int) -> int:
        """Count the documents that end at or before this token."""
        return bisect_right(self._ends, token)


def map_file(path: Path) -> bytes | mmap.mmap:
    """Map a file for reading. DataError when that cannot be done."""
    try:
        with path.open("rb") as file:
            # An empty file cannot be mapped.
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if path.stat().st_size else b""
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; bring it back or prepare the data again.") from error


def open_boundaries(path: Path) -> Boundaries:
    """Map the boundaries of a shard: Megatron's index where the name ends in .idx, else the documents' ends."""
    from data_pipeline.shards.megatron import Index

    return Index(path) if path.suffix == ".idx" else Ends(path)
