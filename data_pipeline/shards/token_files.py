"""The token files of shard sets, opened for reading at any place: no more of them at once than the system allows."""

import contextlib
import functools
import os
import resource
import weakref
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.shards.traffic import asked

_MOST_DESCRIPTORS = 1 << 16
"""Asked of the system at most."""
_in_use: "weakref.WeakSet[TokenFiles]" = weakref.WeakSet()


@functools.cache
def _open_at_once() -> int:
    """How many token files this process may keep open: half its descriptors.

    The soft limit, often 1,024, is raised to what the system allows: a corpus may have thousands of shards.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (wanted if soft == resource.RLIM_INFINITY else min(soft, _MOST_DESCRIPTORS)) // 2


class TokenFile:
    """A file of token ids; closed when the last who reads it lets go of it."""

    def __init__(self, path: Path) -> None:
        """Open it. DataError when that cannot be done."""
        self.path, self._descriptor = path, -1
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror}.") from error
        # Windows are drawn at random: read-ahead after each would drag in pages that nobody asked for.
        self._advise(0, 0, os.POSIX_FADV_RANDOM)

    def __del__(self) -> None:
        """Close the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def read_into(self, offset: int, out: np.ndarray) -> None:
        """Fill `out`, contiguous, with the bytes from `offset` on. DataError when they are not there."""
        left = out.view(np.uint8).data
        asked(len(left))
        while True:
            try:
                count = os.preadv(self._descriptor, [left], offset)
            except OSError as error:
                raise DataError(f"cannot read {self.path} at byte {offset:,}: {error.strerror}.") from error
            if count == len(left):
                return
            if not count:
                raise DataError(f"{self.path} ends at byte {offset:,}: it was cut short; bring it back.")
            left, offset = left[count:], offset + count

    def will_need(self, offset: int, length: int) -> None:
        """Ask the system to read these bytes; returns at once."""
        self._advise(offset, length, os.POSIX_FADV_WILLNEED)

    def _advise(self, offset: int, length: int, advice: int) -> None:
        with contextlib.suppress(OSError):  # some filesystems take no advice
            os.posix_fadvise(self._descriptor, offset, length, advice)


class TokenFiles:
    """The open token files of one shard set, by the numbers of its shards."""

    def __init__(self, path_of: Callable[[int], Path]) -> None:
        """`path_of` gives the path of a shard's token file, checked."""
        self._path_of = path_of
        self._files: OrderedDict[int, TokenFile] = OrderedDict()
        self._lock = Lock()
        _in_use.add(self)

    def __getitem__(self, shard: int) -> TokenFile:
        """Return a shard's file; beyond this set's share of the descriptors, the least recently used one is let go."""
        with self._lock:
            file = self._files.get(shard)
            if file is None:
                file = self._files[shard] = TokenFile(self._path_of(shard))
                while len(self._files) > max(1, _open_at_once() // len(_in_use)):
                    self._files.popitem(last=False)
            self._files.move_to_end(shard)
        return file
