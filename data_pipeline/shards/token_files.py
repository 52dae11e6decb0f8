"""The token files of shard sets, opened for reading at any place: no more of them at once than the system allows."""

import contextlib
import functools
import mmap
import os
import resource
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.shards.traffic import traffic

_MOST_DESCRIPTORS = 1 << 16
"""Asked of the system at most; it also limits the maps of a process, to 65,530."""
_PROBES = 16
_LOOK_EVERY = 4096
"""Windows of a mapped file between two looks whether it is still in memory."""
_in_use: "weakref.WeakSet[TokenFiles]" = weakref.WeakSet()


@functools.cache
def _open_at_once() -> int:
    """How many token files this process may keep open: a third of its descriptors, of which a map holds one more.

    The soft limit, often 1,024, is raised to what the system allows: a corpus may have thousands of shards.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (wanted if soft == resource.RLIM_INFINITY else min(soft, _MOST_DESCRIPTORS)) // 3


class TokenFile:
    """A file of token ids; closed when the last who reads it lets go of it.

    What lies in memory is read through a map, everything else by `pread`: a map is twice as fast where the same pages
    come again, but a page that has to come from a disk then stops the whole process, and an error of the disk ends it.
    """

    def __init__(self, path: Path, dtype: np.dtype) -> None:
        """Open it. DataError when that cannot be done."""
        self.path, self._dtype, self._descriptor = path, dtype, -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self._size = os.fstat(self._descriptor).st_size
            self._ids = self._map() if self._in_memory() else None
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}.") from error
        self._wanted = 0
        # Windows are drawn at random: read-ahead after each would drag in pages that nobody asked for.
        self._advise(0, 0, os.POSIX_FADV_RANDOM)

    def __del__(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)

    @property
    def mapped(self) -> bool:
        """Is it read through a map?"""
        return self._ids is not None

    def read(self, first: int, length: int) -> np.ndarray:
        """Return ids [length] from place `first` on, to be copied soon. DataError when they are not there."""
        if (ids := self._ids) is not None:
            # Touching a map behind the end of its file would kill the process without a word.
            if (end := os.lseek(self._descriptor, 0, os.SEEK_END)) < self._size:
                raise self._cut_short(end)
            return ids[first : first + length]
        out = np.empty(length, self._dtype)
        left, offset = out, first * self._dtype.itemsize
        traffic().read(out.nbytes)
        while (count := self._pread(left, offset)) < left.nbytes:
            if not count:
                raise self._cut_short(offset)
            left, offset = left.view(np.uint8)[count:], offset + count
        return out

    def _cut_short(self, end: int) -> DataError:
        return DataError(f"{self.path} ends at byte {end:,}: it was cut short; bring it back.")

    def will_need(self, first: int, length: int) -> None:
        """Ask the system to read these ids; returns at once."""
        if self._ids is None:
            size = self._dtype.itemsize
            traffic().told(length * size)
            self._advise(first * size, length * size, os.POSIX_FADV_WILLNEED)
            return
        self._wanted += 1
        if self._wanted % _LOOK_EVERY == 0 and not self._in_memory():
            self._ids = None

    def _pread(self, out: np.ndarray, offset: int) -> int:
        try:
            return os.preadv(self._descriptor, [out.data], offset)
        except OSError as error:
            raise DataError(f"cannot read {self.path} at byte {offset:,}: {error.strerror}.") from error

    def _advise(self, offset: int, length: int, advice: int) -> None:
        with contextlib.suppress(OSError):  # some filesystems take no advice
            os.posix_fadvise(self._descriptor, offset, length, advice)

    def _in_memory(self) -> bool:
        """Can single bytes all over the file be had without the disk?"""
        byte = bytearray(1)
        try:
            for probe in range(_PROBES):
                os.preadv(self._descriptor, [byte], probe * self._size // _PROBES, os.RWF_NOWAIT)
        except (OSError, AttributeError):  # not there yet, or a system that cannot say
            return False
        return self._size > 0

    def _map(self) -> np.ndarray:
        view = mmap.mmap(self._descriptor, 0, access=mmap.ACCESS_READ)
        return np.frombuffer(view, self._dtype, self._size // self._dtype.itemsize)


class TokenFiles:
    """The open token files of one shard set, by the numbers of its shards."""

    def __init__(self, path_of: Callable[[int], Path], dtype: np.dtype) -> None:
        """`path_of` gives the path of a shard's token file, checked; `dtype` is the type of an id."""
        self._path_of, self._dtype = path_of, dtype
        self._files: OrderedDict[int, TokenFile] = OrderedDict()
        self._lock = Lock()
        _in_use.add(self)

    def __getitem__(self, shard: int) -> TokenFile:
        """Return a shard's file; beyond this set's share of the descriptors, the least recently used one is let go."""
        with self._lock:
            file = self._files.get(shard)
            if file is None:
                file = self._files[shard] = TokenFile(self._path_of(shard), self._dtype)
                while len(self._files) > max(1, _open_at_once() // len(_in_use)):
                    self._files.popitem(last=False)
            self._files.move_to_end(shard)
            return file
