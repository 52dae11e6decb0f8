"""Sorted files of rows, and what is done with them in bounded memory: find, read, merge, sort.

A file is a .npy of whole numbers (uint64), or of records of them, ordered by their fields from the first to the last.
"""

import contextlib
import itertools
import os
import shutil
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.files import sync_folder

Rows = np.ndarray

_COPIES = 12
"""How many times the rows at hand are in memory, at most, while they are merged, sorted and made into other rows."""


class RowFile:
    """A sorted file of rows."""

    def __init__(self, path: Path) -> None:
        """Read the header. DataError when there is no such file or it is none of ours."""
        self.path = path
        try:
            with path.open("rb") as file:
                np.lib.format.read_magic(file)
                (self._count,), _, self.dtype = np.lib.format.read_array_header_1_0(file)
                self._offset = file.tell()
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read {path}: {error}; remove its folder to have it made again.") from error

    def __len__(self) -> int:
        """Return how many rows there are."""
        return self._count

    def read(self, first: int, end: int) -> Rows:
        """Return the rows first..end-1. DataError when the file is cut off."""
        offset = self._offset + first * self.dtype.itemsize
        rows = np.fromfile(self.path, self.dtype, end - first, offset=offset)
        if len(rows) < end - first:
            raise DataError(f"{self.path} is cut off; remove its folder to have it made again.")
        return rows

    def find(self, value: int, first: int = 0, end: int | None = None) -> int:
        """Return the place of the first row whose first field is at least `value`, of rows first..end-1."""
        end = len(self) if end is None else end
        with self.path.open("rb") as file:

            def leading(row: int) -> int:
                where = self._offset + row * self.dtype.itemsize
                return int.from_bytes(os.pread(file.fileno(), 8, where), "little")

            return bisect_left(range(end), value, first, end, key=leading)


class Stretch(NamedTuple):
    """Rows first..end-1 of a file."""

    file: RowFile
    first: int
    end: int


def write_rows(path: Path, dtype: np.dtype, blocks: Iterable[Rows]) -> int:
    """Write rows block by block; return how many. The file has its name when it is whole and on the disk.

    DataError when the disk is full, or for another such fault.
    """
    aside = path.with_name(path.name + ".partial")
    try:
        count = _fill(aside, dtype, blocks, durable=True)
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise _unwritable(path, error) from error
    finally:
        aside.unlink(missing_ok=True)
    return count


def whole(file: RowFile) -> Stretch:
    """Return all rows of a file."""
    return Stretch(file, 0, len(file))


def sort_rows(rows: Rows) -> Rows:
    """Return the rows in the order of their fields."""
    names = rows.dtype.names
    return rows[np.lexsort([rows[name] for name in reversed(names)])] if names else np.sort(rows)


def rows_within(memory: int, dtype: np.dtype) -> int:
    """How many rows can be merged, or sorted, in so many bytes."""
    return max(1, memory // (_COPIES * dtype.itemsize))


def merge(stretches: Iterable[Stretch], memory: int, keep: Callable[[Rows], Rows] | None = None) -> Iterator[Rows]:
    """Yield the rows of sorted stretches in order, in blocks for `memory` bytes (or of a row a stretch, if more).

    `keep` picks the rows of a stretch that count.
    """
    readers = [_Reader(stretch, keep) for stretch in stretches if stretch.first < stretch.end]
    while readers:
        room = rows_within(memory, readers[0].rows.dtype) // len(readers)
        for reader in readers:
            reader.fill(max(1, room))
        # Rows behind the last one that is here of a file may still come between those of the others.
        bound = min((_values(reader.rows[-1]) for reader in readers if reader.more), default=None)
        block = sort_rows(np.concatenate([reader.take(bound) for reader in readers]))
        readers = [reader for reader in readers if reader.more or len(reader.rows)]
        if len(block):
            yield block


def write_sorted(chunks: Iterable[Rows], dtype: np.dtype, out: Path, memory: int) -> int:
    """Write the rows of all chunks in order, each once; return how many. A chunk is as large as `merge` makes them."""
    with spilling(out) as spill:
        files = [spill(dtype, [sort_rows(chunk)]) for chunk in chunks]
        return write_rows(out, dtype, each_once(merge([whole(file) for file in files], memory)))


@contextlib.contextmanager
def spilling(out: Path) -> Iterator[Callable[[np.dtype, Iterable[Rows]], RowFile]]:
    """Yield a function that puts blocks of rows into a file for the time being: in a folder beside `out`."""
    folder = out.with_name(out.name + ".sorting")
    shutil.rmtree(folder, ignore_errors=True)
    numbers = itertools.count()

    def spill(dtype: np.dtype, blocks: Iterable[Rows]) -> RowFile:
        path = folder / f"{next(numbers)}.npy"
        try:
            _fill(path, dtype, blocks, durable=False)
        except OSError as error:
            raise _unwritable(path, error) from error
        return RowFile(path)

    try:
        folder.mkdir()
        yield spill
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def each_once(blocks: Iterable[Rows]) -> Iterator[Rows]:
    """Yield sorted blocks without the rows that are like the one before."""
    last: Rows | None = None
    for rows in blocks:
        kept = without_repeats(rows)
        if last is not None and kept[0] == last[0]:
            kept = kept[1:]
        if len(kept):
            yield kept
        last = rows[-1:]


def without_repeats(rows: Rows) -> Rows:
    """Return each of sorted rows once."""
    new = np.ones(len(rows), bool)
    new[1:] = rows[1:] != rows[:-1]
    return rows[new]


class _Reader:
    """The rows of a stretch that are at hand, and how far it is read."""

    def __init__(self, stretch: Stretch, keep: Callable[[Rows], Rows] | None) -> None:
        self._file, self._next, self._end = stretch
        self._keep = keep
        self.rows = np.empty(0, self._file.dtype)

    @property
    def more(self) -> bool:
        """Whether rows are left in the file."""
        return self._next < self._end

    def fill(self, count: int) -> None:
        """Have `count` rows at hand, or all that are left."""
        while self.more and len(self.rows) < count:
            after = min(self._end, self._next + count - len(self.rows))
            rows = self._file.read(self._next, after)
            self.rows = np.concatenate([self.rows, rows if self._keep is None else self._keep(rows)])
            self._next = after

    def take(self, bound: tuple[int, ...] | None) -> Rows:
        """Give the rows up to and including `bound`, or all."""
        count = len(self.rows) if bound is None else _count_up_to(self.rows, bound)
        taken, self.rows = self.rows[:count], self.rows[count:]
        return taken


def _values(row: np.generic) -> tuple[int, ...]:
    values = row.tolist()
    return values if isinstance(values, tuple) else (values,)


def _count_up_to(rows: Rows, bound: tuple[int, ...]) -> int:
    """How many sorted rows are at most `bound`, compared field by field."""
    first, end = 0, len(rows)
    columns = [rows[name] for name in rows.dtype.names] if rows.dtype.names else [rows]
    for column, value in zip(columns, bound, strict=True):
        equal = column[first:end]
        first, end = (first + int(np.searchsorted(equal, np.uint64(value), side)) for side in ("left", "right"))
    return end


def _unwritable(path: Path, error: OSError) -> DataError:
    return DataError(
        f"cannot write {path}: {error.strerror or error}. Mend that (free space, permissions) and give the same "
        "command again: it goes on where it stopped."
    )


def _fill(path: Path, dtype: np.dtype, blocks: Iterable[Rows], durable: bool) -> int:
    """Write a .npy of one dimension; numpy leaves room in the header for the number of rows to grow."""
    count = 0
    with path.open("wb") as file:
        _write_header(file, dtype, 0)
        for block in blocks:
            file.write(np.ascontiguousarray(block, dtype).view(np.uint8).data)
            count += len(block)
        _write_header(file, dtype, count)
        file.flush()
        if durable:
            os.fsync(file.fileno())
    return count


def _write_header(file: IO[bytes], dtype: np.dtype, count: int) -> None:
    file.seek(0)
    descr = np.lib.format.dtype_to_descr(dtype)
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": (count,)})
