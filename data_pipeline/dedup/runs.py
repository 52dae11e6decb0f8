"""Sorted runs: what a task knows of its documents, in the order in which it is looked for.

In a task's folder lie `keys.npy`, its exact keys in order, and `bands.npy`: its documents as often as there are bands,
band after band, each in the order of its hashes. A range of hashes is a contiguous stretch of each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.dedup.rows import (
    RowFile,
    Rows,
    Stretch,
    merge,
    rows_within,
    sort_rows,
    spilling,
    whole,
    write_rows,
)

NUMBER = np.dtype("<u8")
"""A document: task << 32 | row."""
KEY = np.dtype([("high", "<u8"), ("low", "<u8"), ("number", "<u8")])
"""128 bits of a document's text, and the document."""
HASH = np.dtype([("hash", "<u8"), ("number", "<u8")])
"""A document's hash in a band, and the document."""


def write_runs(folder: Path, task: int, keys: Path | None, bands: Path | None, num_bands: int, memory: int) -> None:
    """Sort a task's keys and band hashes into files in `folder` (which is there), within `memory` bytes.

    `keys` and `bands` are raw files of little-endian uint64, row after row in the order of the documents, as
    `exact_keys(...).astype("<u8").tobytes()` and `band_hashes(...)` give them ([n, 2] and [n, num_bands]);
    None: not wanted.
    """
    if keys is not None:
        _write_run(_Raw(keys, task, 1, KEY), folder / "keys.npy", memory)
    if bands is not None:
        _write_run(_Raw(bands, task, num_bands, HASH), folder / "bands.npy", memory)


def parts_for(rows: int, memory: int) -> int:
    """How many ranges of hashes to cut `rows` documents into, so that one fits into `memory` bytes of a worker."""
    return -(-rows // rows_within(memory, KEY)) or 1


def unite(files: Sequence[Path], out: Path, memory: int) -> int:
    """Merge sorted files of numbers, no number in two (`find_exact`'s of all parts), into `out`; return how many."""
    return write_rows(out, NUMBER, merge([whole(RowFile(path)) for path in files], memory))


def key_stretch(folder: Path, part: int, parts: int) -> Stretch:
    """Return the keys of a task that lie in range `part` of `parts`."""
    return _range(_order(RowFile(folder / "keys.npy"), 0, 1), part, parts)


def hash_stretch(folder: Path, num_bands: int, band: int, part: int, parts: int) -> Stretch:
    """Return the hashes of a task in a band that lie in range `part` of `parts`."""
    return _range(_order(RowFile(folder / "bands.npy"), band, num_bands), part, parts)


@dataclass(frozen=True)
class _Raw:
    """A task's hashes in the order of its documents: of each document `orders` times the fields of a row."""

    path: Path
    task: int
    orders: int
    dtype: np.dtype

    @property
    def fields(self) -> list[str]:
        """The names of a row's hashes."""
        return [name for name in self.dtype.names or () if name != "number"]

    @property
    def width(self) -> int:
        """Hashes of a document."""
        return self.orders * len(self.fields)

    def __len__(self) -> int:
        return self.path.stat().st_size // (8 * self.width)

    def read(self, first: int, end: int) -> Iterator[Rows]:
        """Yield the documents first..end-1 in each of the orders."""
        hashes = np.fromfile(self.path, "<u8", (end - first) * self.width, offset=8 * first * self.width)
        for order in hashes.reshape(end - first, self.orders, len(self.fields)).swapaxes(0, 1):
            rows = np.empty(end - first, self.dtype)
            for name, column in zip(self.fields, order.T, strict=True):
                rows[name] = column
            rows["number"] = np.arange(first, end, dtype=np.uint64) + np.uint64(self.task << 32)
            yield sort_rows(rows)


def _write_run(raw: _Raw, out: Path, memory: int) -> None:
    """Sort a raw file: as many documents at once as there is memory for, then, if these are not all, merge."""
    room = max(1, min(memory // (8 * raw.width), rows_within(memory, raw.dtype)) // 2)
    if len(raw) <= room:
        write_rows(out, raw.dtype, raw.read(0, len(raw)))
        return
    with spilling(out) as spill:
        pieces = [spill(raw.dtype, raw.read(first, min(first + room, len(raw)))) for first in range(0, len(raw), room)]
        stretches = ([_order(piece, order, raw.orders) for piece in pieces] for order in range(raw.orders))
        write_rows(out, raw.dtype, (rows for order in stretches for rows in merge(order, memory)))


def _order(file: RowFile, order: int, orders: int) -> Stretch:
    """Return the rows of one of the orders in a file that has them one after another."""
    documents = len(file) // orders
    return Stretch(file, order * documents, (order + 1) * documents)


def _range(sorted_rows: Stretch, part: int, parts: int) -> Stretch:
    """Return the rows whose first field lies in range `part` of `parts` of the numbers below 2^64."""
    file, first, end = sorted_rows
    low, high = ((number << 64) // parts for number in (part, part + 1))
    return Stretch(file, file.find(low, first, end), file.find(high, first, end))
