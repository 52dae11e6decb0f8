"""Ways of reading windows of tokens from files, side by side with the loader: by map, by pread, as others do it."""

import contextlib
import importlib.util
import mmap
import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch


class Window(NamedTuple):
    """Where a sequence lies."""

    path: Path
    first: int
    """Its first token in that file."""


Read = Callable[[Sequence[Window], Sequence[Window]], object]
"""Reads the windows of one batch; the second are those of the next batch."""


class Ways:
    """One reader for each way, for windows of `length` tokens of one type."""

    def __init__(self, dtype: np.dtype, length: int) -> None:
        self.dtype, self.length, self.size = dtype, length, length * dtype.itemsize

    def all(self) -> dict[str, Callable[[], Read]]:
        """By name; each opens its files anew. megatron-core only where it is installed."""
        ways: dict[str, Callable[[], Read]] = {
            "map": lambda: self.map(ahead=False),
            "map, told ahead": lambda: self.map(ahead=True),
            "pread": lambda: self.pread(ahead=False),
            "pread, told ahead": lambda: self.pread(ahead=True),
            "numpy.memmap and torch.stack": self.memmap_dataset,
        }
        if importlib.util.find_spec("megatron") is not None:
            ways["megatron-core IndexedDataset"] = self.megatron
        return ways

    def map(self, ahead: bool) -> Read:
        """Copy out of a map without read-ahead; `ahead`: tell the system of the next batch first."""
        maps = _Opened(self._open_map)

        def read(windows: Sequence[Window], following: Sequence[Window]) -> np.ndarray:
            for window in following if ahead else ():
                start = window.first * self.dtype.itemsize
                page = start - start % mmap.PAGESIZE
                maps[window.path][1].madvise(mmap.MADV_WILLNEED, page, start + self.size - page)
            out = np.empty((len(windows), self.length), np.int64)
            for row, window in zip(out, windows, strict=True):
                row[:] = maps[window.path][0][window.first : window.first + self.length]
            return out

        return read

    def _open_map(self, path: Path) -> tuple[np.ndarray, mmap.mmap]:
        with path.open("rb") as file:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        view.madvise(mmap.MADV_RANDOM)
        return np.frombuffer(view, self.dtype), view

    def pread(self, ahead: bool) -> Read:
        """Read with one call a window; `ahead`: tell the system of the next batch first."""
        files = _Opened(lambda path: path.open("rb", buffering=0))

        def read(windows: Sequence[Window], following: Sequence[Window]) -> np.ndarray:
            for window in following if ahead else ():
                start = window.first * self.dtype.itemsize
                os.posix_fadvise(files[window.path].fileno(), start, self.size, os.POSIX_FADV_WILLNEED)
            out = np.empty((len(windows), self.length), np.int64)
            buffer = np.empty(self.length, self.dtype)
            for row, window in zip(out, windows, strict=True):
                os.preadv(files[window.path].fileno(), [buffer.data], window.first * self.dtype.itemsize)
                row[:] = buffer
            return out

        return read

    def memmap_dataset(self) -> Read:
        """As small training scripts do it: slice a numpy.memmap, one tensor a sequence, stack them."""
        maps = _Opened(lambda path: np.memmap(path, self.dtype, mode="r"))

        def read(windows: Sequence[Window], following: Sequence[Window]) -> torch.Tensor:
            rows = (maps[w.path][w.first : w.first + self.length].astype(np.int64) for w in windows)
            return torch.stack([torch.from_numpy(row) for row in rows])

        return read

    def megatron(self) -> Read:
        """As its GPTDataset does it: the parts of the documents that a window touches, joined."""
        datasets = _Opened(_indexed_dataset)

        def row(window: Window) -> torch.Tensor:
            dataset, ends = datasets[window.path]
            parts, place, end = [], window.first, window.first + self.length
            document = bisect_right(ends, place)
            while place < end:
                begin = int(ends[document - 1]) if document else 0
                count = min(end, int(ends[document])) - place
                parts.append(dataset.get(document, offset=place - begin, length=count))
                place, document = place + count, document + 1
            return torch.from_numpy(np.concatenate(parts).astype(np.int64))

        return lambda windows, following: torch.stack([row(window) for window in windows])


class _Opened(dict[Path, Any]):
    """Files by path, opened when they are first asked for."""

    def __init__(self, opened: Callable[[Path], Any]) -> None:
        super().__init__()
        self._opened = opened

    def __missing__(self, path: Path) -> Any:
        self[path] = self._opened(path)
        return self[path]


def _indexed_dataset(path: Path) -> tuple[Any, np.ndarray]:
    """megatron-core's reader of a pair, and where its sequences end."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what else could be installed
        from megatron.core.datasets.indexed_dataset import IndexedDataset

        dataset = IndexedDataset(str(path.with_suffix("")), mmap=True)
    return dataset, np.cumsum(dataset.sequence_lengths, dtype=np.int64)


def forget(paths: Sequence[Path]) -> None:
    """Ask the system to drop these files from memory; pages that are mapped somewhere stay."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def bytes_delivered() -> int:
    """Bytes that disks have delivered to this process; 0 where the system does not say."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/io").read_text().splitlines():
            if line.startswith("read_bytes:"):
                return int(line.partition(":")[2])
    return 0
