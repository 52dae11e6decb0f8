"""Exact duplicates: documents whose normalised text is the same."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np


def exact_keys(texts: Sequence[str]) -> np.ndarray:
    """Return uint64 [n, 2]: 128 bits of BLAKE2b of each normalised text."""
    raise NotImplementedError


def find_exact(runs: Sequence[Path], part: int, parts: int, memory: int, out: Path) -> int:
    """Write the numbers of documents to drop as exact duplicates (.npy, uint64, sorted) to `out`; return how many.

    `runs` are the folders of `write_runs`, one a task; looks only at keys of range `part` of `parts`.
    """
    raise NotImplementedError
