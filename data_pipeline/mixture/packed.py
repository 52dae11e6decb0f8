"""Windows of whole documents: the rows that best-fit packing plans, with the methods of contiguous ones."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.mixture.pack_build import open_plan
from data_pipeline.mixture.packing import checks
from data_pipeline.mixture.windows import Stretch, Windows
from data_pipeline.shards import ShardSet


class _Places(NamedTuple):
    """Pieces in the order of the source: their first tokens, the ends of them, and their windows; int64 [n] each."""

    firsts: np.ndarray
    ends: np.ndarray
    windows: np.ndarray


class PackedWindows(Windows):
    """Window w holds the pieces of documents that the plan says, one after another, the longest first.

    A target is a token whose predecessor in the same document stands just before it: the first token of a piece is none
    (see `masking`). What is left of the row is filled with end-of-document tokens outside the loss.
    """

    def __init__(self, shards: ShardSet, seq_len: int) -> None:
        """Open the plan of the set, or make it. DataError when its documents do not end in eos, or have no targets."""
        if shards.manifest.num_eos_tokens != shards.manifest.num_documents:
            raise DataError(
                f"{shards.prefix}: only {shards.manifest.num_eos_tokens:,} of {shards.manifest.num_documents:,} "
                "documents end in the end-of-document token, so that a model could not tell where the next one begins; "
                "use data.packing=contiguous."
            )
        self.shards, self.seq_len = shards, seq_len
        self._plan = open_plan(shards, seq_len)
        self.num_windows = len(self._plan.windows)
        self.identity = f"{shards.digest} best_fit 1"
        self._last_block = (-1, _Places(*3 * [np.empty(0, np.int64)]))
        if not self.num_windows:
            raise DataError(f"{shards.prefix} has no document of two tokens or more: nothing can be predicted.")

    def read(self, windows: np.ndarray, out: Sequence[np.ndarray]) -> None:
        """Fill rows, int64 [seq_len + 1] each, with windows int64 [n]; a token that is no target as ~id."""
        pieces, counts = self._pieces(windows)
        columns = _columns(pieces, counts)
        rows = np.repeat(np.arange(len(windows)), counts)
        for row in out:
            row[:] = ~self.shards.manifest.eos_id
        places = zip(rows.tolist(), columns.tolist(), pieces["first"].tolist(), pieces["length"].tolist(), strict=True)
        for number, column, first, length in places:
            part = out[number][column : column + length]
            self.shards.read_into(first, part)
            if column:
                part[0] ^= -1

    def will_need(self, windows: np.ndarray) -> None:
        """Ask the system to read these windows ahead of their use; returns at once."""
        pieces, _ = self._pieces(windows)
        for first, length in zip(pieces["first"].tolist(), pieces["length"].tolist(), strict=True):
            self.shards.will_need(first, length)

    def num_targets(self, windows: np.ndarray) -> np.ndarray:
        """Count the targets of each window, int64 [n], without reading them."""
        pieces, counts = self._pieces(windows)
        return np.add.reduceat(pieces["length"].astype(np.int64) - 1, np.cumsum(counts) - counts)

    def stretches(self, window: int) -> list[Stretch]:
        """Say which tokens of the source a window's row holds, in the order of its columns."""
        pieces, counts = self._pieces(np.array([window]))
        columns = _columns(pieces, counts).tolist()
        return [
            Stretch(column, int(first), int(length)) for column, (first, length) in zip(columns, pieces, strict=True)
        ]

    def windows_with(self, first: int, end: int) -> list[int]:
        """Return the windows that hold any of the source's tokens first..end-1, in order."""
        found = [np.empty(0, np.int64)]
        earliest, latest = np.searchsorted(self._plan.blocks["token_end"], [first, end - 1], side="right").tolist()
        for block in range(earliest, latest + 1):
            firsts, ends, windows = self._by_place(block)
            found.append(windows[np.searchsorted(ends, first, side="right") : np.searchsorted(firsts, end)])
        return np.unique(np.concatenate(found)).tolist()

    def _by_place(self, block: int) -> _Places:
        """The pieces of a block of documents in the order of the source; the last block asked for is kept."""
        number, places = self._last_block
        if number != block:
            first, end = (int(self._plan.blocks["window_end"][b]) if b >= 0 else 0 for b in (block - 1, block))
            windows = np.arange(first, end)
            pieces, counts = self._pieces(windows)
            order = np.argsort(pieces["first"])
            firsts = pieces["first"][order]
            places = _Places(firsts, firsts + pieces["length"][order], np.repeat(windows, counts)[order])
            self._last_block = block, places
        return places

    def _pieces(self, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pieces of windows [n], one window after the other, and how many each has. DataError: damaged."""
        rows = self._plan.windows
        ends = rows["end"][windows]
        begins = np.where(windows > 0, rows["end"][np.maximum(windows, 1) - 1], 0)
        counts = ends - begins
        if len(windows) and (counts.min() < 1 or counts.max() > self.seq_len or ends.max() > len(self._plan.pieces)):
            raise self._plan.damaged("its windows do not add up")
        number = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        pieces = self._plan.pieces[np.repeat(begins, counts) + number]
        wrong = np.flatnonzero(checks(pieces, counts) != rows["check"][windows])
        if len(wrong):
            raise self._plan.damaged(f"the digest of window {windows[wrong[0]]} differs")
        return pieces, counts


def _columns(pieces: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Where in its row each piece begins, int64."""
    ends = np.cumsum(pieces["length"].astype(np.int64))
    begins = ends - pieces["length"]
    return begins - np.repeat(begins[np.cumsum(counts) - counts], counts)
