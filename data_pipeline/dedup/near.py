"""Candidates for near duplicates: documents that share a bucket of a band."""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from data_pipeline.dedup.rows import RowFile, Rows, merge, write_sorted
from data_pipeline.dedup.runs import hash_stretch

EDGE = np.dtype([("later", "<u8"), ("earlier", "<u8")])
"""Two documents that may be near duplicates."""

_AT_ONCE = 2**17
"""Numbers of dropped documents to compare with at once."""


def find_candidates(
    runs: Sequence[Path], num_bands: int, band: int, part: int, parts: int, dropped: Path | None, memory: int, out: Path
) -> int:
    """Write the pairs of one band and range of hashes (.npy of EDGE, sorted, unique) to `out`; return how many.

    `runs` are the folders of `write_runs`, one a task. Each document of a bucket is paired with the bucket's first and
    with the one just before it. `dropped` is the file of `unite`: its documents take no part.
    """
    stretches = (hash_stretch(folder, num_bands, band, part, parts) for folder in runs)
    keep = None if dropped is None else partial(_without, RowFile(dropped))
    return write_sorted(_edges(merge(stretches, memory, keep)), EDGE, out, memory)


def _edges(blocks: Iterable[Rows]) -> Iterator[Rows]:
    """Yield the edges within buckets, from rows sorted by (hash, number)."""
    before: Rows | None = None
    for block in blocks:
        # Of a bucket that goes on the first and the last row are enough; their edge comes again, and is written once.
        rows = block if before is None else np.concatenate([before, block])
        same = np.zeros(len(rows), bool)
        same[1:] = rows["hash"][1:] == rows["hash"][:-1]
        firsts = np.maximum.accumulate(np.where(same, 0, np.arange(len(rows))))
        yield _pairs(rows["number"], np.flatnonzero(same), firsts)
        before = rows[np.unique([firsts[-1], len(rows) - 1])]


def _pairs(numbers: np.ndarray, places: np.ndarray, firsts: np.ndarray) -> Rows:
    """Pair the documents at `places` with the first of their bucket and with the one before."""
    second = places[places - 1 != firsts[places]]
    edges = np.empty(len(places) + len(second), EDGE)
    edges["later"] = numbers[np.concatenate([places, second])]
    edges["earlier"] = numbers[np.concatenate([firsts[places], second - 1])]
    return edges


def _without(dropped: RowFile, rows: Rows) -> Rows:
    """Leave out the rows of dropped documents; all rows are of one task."""
    task = int(rows["number"][0]) >> 32
    first, end = dropped.find(task << 32), dropped.find((task + 1) << 32)
    stay = np.ones(len(rows), bool)
    for begin in range(first, end, _AT_ONCE):
        some = dropped.read(begin, min(begin + _AT_ONCE, end))
        places = np.searchsorted(some, rows["number"])
        stay &= some[np.minimum(places, len(some) - 1)] != rows["number"]
    return rows[stay]
