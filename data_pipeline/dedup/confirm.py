"""Candidates confirmed: the exact Jaccard similarity of their sets of shingles."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from data_pipeline.dedup.settings import NearDuplicates


class Texts(Protocol):
    """Where the texts of documents are."""

    def read(self, numbers: np.ndarray) -> Iterator[tuple[int, str]]:
        """Yield (number, text) for sorted unique uint64 numbers, in that order; may be left before its end."""
        ...


def confirm(
    pairs: Sequence[Path], first: int, end: int, texts: Texts, near: NearDuplicates, memory: int, out: Path
) -> int:
    """Write the near duplicates among documents `first` to `end` - 1 (.npy of CONFIRMED, sorted) to `out`.

    `pairs` are all files of `find_candidates`. One row (later, earlier, jaccard) for each document to drop, with its
    earliest partner at near.threshold or above. Returns how many.
    """
    raise NotImplementedError
