"""What a window number means for one source: how many there are, which tokens each holds, and how they are read."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.shards import ShardSet


class Stretch(NamedTuple):
    """Consecutive tokens of a source, and where they lie in a window's row."""

    column: int
    """Place in the row, from 0."""
    first: int
    """Place in the source."""
    length: int
    """Tokens."""


class Windows:
    """Contiguous windows: window w is the tokens w * seq_len to w * seq_len + seq_len, the last only as a target.

    The mixture asks for nothing but the methods here, so that another way to cut a source into rows is another class
    with the same ones, and every window is a pure function of its number.
    """

    def __init__(self, shards: ShardSet, seq_len: int) -> None:
        """Cut an opened shard set. DataError when it has fewer tokens than one window."""
        if shards.num_tokens <= seq_len:
            raise DataError(
                f"{shards.prefix} has {shards.num_tokens:,} tokens, one sequence needs {seq_len + 1:,} "
                "(train.seq_len + 1); shorten the sequences or prepare more data."
            )
        self.shards, self.seq_len = shards, seq_len
        self.num_windows = (shards.num_tokens - 1) // seq_len
        """Windows in one epoch."""
        self.identity = shards.digest
        """What the order of the windows is keyed with: the same for the same tokens cut the same way."""

    def read(self, windows: np.ndarray, out: Sequence[np.ndarray]) -> None:
        """Fill rows, int64 [seq_len + 1] each, with the tokens of windows int64 [n]; an array of rows will do."""
        for row, window in zip(out, windows.tolist(), strict=True):
            self.shards.read_into(window * self.seq_len, row)

    def will_need(self, windows: np.ndarray) -> None:
        """Ask the system to read these windows ahead of their use; returns at once."""
        for window in windows.tolist():
            self.shards.will_need(window * self.seq_len, self.seq_len + 1)

    def num_targets(self, windows: np.ndarray) -> np.ndarray:
        """Count the targets of each window, int64 [n], without reading them."""
        return np.full(len(windows), self.seq_len, np.int64)

    def stretches(self, window: int) -> list[Stretch]:
        """Say which tokens of the source a window's row holds, in the order of its columns.

        The first token of each stretch is no target; all its others are.
        """
        return [Stretch(0, window * self.seq_len, self.seq_len + 1)]

    def windows_with(self, first: int, end: int) -> Iterable[int]:
        """Return the windows that hold any of the source's tokens first..end-1, in order."""
        after_last = (end - 1) // self.seq_len + 1
        # A window's last token is also the next one's first, so a token on the border is in two.
        earliest = max(0, -(-first // self.seq_len) - 1)
        return range(earliest, min(after_last, self.num_windows))
