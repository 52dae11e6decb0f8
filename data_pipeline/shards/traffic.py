"""Does the disk deliver many more bytes than were asked for? Counted by the kernel for each thread, on Linux."""

import mmap
import sys
import threading
import time
from pathlib import Path

_IO = Path("/proc/thread-self/io")
_SECONDS = 60.0
_LEAST = 256 << 20
"""Fewer bytes than these in an interval are not worth a word."""
_TOO_MANY = 2.0
"""Bytes moved for each asked."""
_LOOK_EVERY = 64 << 20
"""Bytes asked between two looks at the clock and the kernel's counter."""


class Traffic:
    """Compares the bytes that one thread asked for with those that the disk delivered to it, minute by minute."""

    def __init__(self, seconds: float = _SECONDS, least: int = _LEAST) -> None:
        """Judge intervals of so many seconds in which at least so many bytes moved."""
        self._seconds, self._least = seconds, least
        self._unseen = 0
        self._begin()

    def asked(self, size: int) -> None:
        """Count a read of so many bytes; now and then look whether too many move, and warn.

        A disk delivers whole pages: on average one more than the bytes fill.
        """
        self._unseen += mmap.PAGESIZE + size
        if self._unseen >= _LOOK_EVERY:
            self._asked += self._unseen
            self._unseen = 0
            if time.monotonic() - self._start >= self._seconds:
                self.judge()

    def judge(self) -> None:
        """End the interval: warn when the disk delivered too many bytes in it."""
        asked = self._asked + self._unseen
        moved = _delivered() - self._delivered
        if moved >= self._least and moved > _TOO_MANY * asked:
            elapsed = time.monotonic() - self._start
            print(f"warning: {_sentence(asked, moved, elapsed)}", file=sys.stderr, flush=True)
        self._unseen = 0
        self._begin()

    def _begin(self) -> None:
        self._start, self._asked, self._delivered = time.monotonic(), 0, _delivered()


def _sentence(asked: int, moved: int, elapsed: float) -> str:
    return (
        f"the data loader asked for {asked / 1e9:.2f} GB and the disk delivered {moved / 1e9:.2f} GB "
        f"({moved / max(1, asked):.1f}x) in the last {elapsed:.0f} s: the medium reads further ahead than the windows "
        "are long, or memory is short and pages are read twice; longer sequences, less read-ahead "
        "(blockdev --setra, or the mount's rsize) or a copy on a local disk help."
    )


def _delivered() -> int:
    """Bytes that the disk has delivered to this thread; 0 where the system does not say."""
    try:
        for line in _IO.read_text().splitlines():
            if line.startswith("read_bytes:"):
                return int(line.partition(":")[2])
    except (OSError, ValueError):
        pass
    return 0


_of_thread = threading.local()


def asked(size: int) -> None:
    """Count a read of this thread in its own comparison, which begins with its first read."""
    traffic = getattr(_of_thread, "traffic", None)
    if traffic is None:
        traffic = _of_thread.traffic = Traffic()
    traffic.asked(size)
