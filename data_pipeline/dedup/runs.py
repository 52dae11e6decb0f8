"""Sorted runs on disk: what a task knows of its documents, in the order in which it is looked for.

A document's number is task << 32 | row.
"""

from collections.abc import Sequence
from pathlib import Path


def write_runs(folder: Path, task: int, keys: Path | None, bands: Path | None, num_bands: int, memory: int) -> None:
    """Sort a task's keys and band hashes into files in `folder` (which is there), within `memory` bytes.

    `keys` and `bands` are raw files of little-endian uint64, row after row in the order of the documents, as
    `exact_keys(...).astype("<u8").tobytes()` and `band_hashes(...)` give them ([n, 2] and [n, num_bands]);
    None: not wanted.
    """
    raise NotImplementedError


def parts_for(rows: int, memory: int) -> int:
    """How many ranges of hashes to cut `rows` documents into, so that one fits into `memory` bytes of a worker."""
    raise NotImplementedError


def unite(files: Sequence[Path], out: Path, memory: int) -> int:
    """Merge sorted files of numbers (`find_exact`'s, of all parts) into one, `out`; return how many there are."""
    raise NotImplementedError
