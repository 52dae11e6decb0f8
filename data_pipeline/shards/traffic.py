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
_MORE_THAN_PAGES = 1.5
"""Bytes moved for each asked, one more page a window counted as asked: a disk delivers whole pages."""
_MORE_THAN_ASKED = 4.0
"""Bytes moved for each asked alone: windows far shorter than a page."""
_LOOK_EVERY = 64 << 20
"""Bytes asked, those pages included, between two looks at the clock and the kernel's counter."""


class _Asked:
    """Bytes in windows."""

    def __init__(self) -> None:
        self.bytes = self.with_pages = 0

    def add(self, size: int) -> None:
        """Count a window."""
        self.bytes += size
        self.with_pages += size + mmap.PAGESIZE


class Traffic:
    """Compares the bytes that one thread asked for with those that the disk delivered to it, minute by minute."""

    def __init__(self, seconds: float = _SECONDS, least: int = _LEAST) -> None:
        """Judge intervals of so many seconds in which at least so many bytes moved."""
        self._seconds, self._least = seconds, least
        self._begin()

    def told(self, size: int) -> None:
        """Count bytes that the system was told of ahead of their use."""
        self._told.add(size)

    def read(self, size: int) -> None:
        """Count bytes that were read; now and then look whether too many move, and warn."""
        self._read.add(size)
        if self._read.with_pages >= self._next_look:
            self._next_look += _LOOK_EVERY
            if time.monotonic() - self._start >= self._seconds:
                self.judge()

    def judge(self) -> None:
        """End the interval: warn when the disk delivered too many bytes in it."""
        asked = max(self._told, self._read, key=lambda some: some.bytes)  # what was told ahead moves before it is read
        moved = _delivered() - self._delivered
        if moved >= self._least and moved > min(_MORE_THAN_PAGES * asked.with_pages, _MORE_THAN_ASKED * asked.bytes):
            elapsed = time.monotonic() - self._start
            print(f"warning: {_sentence(asked.bytes, moved, elapsed)}", file=sys.stderr, flush=True)
        self._begin()

    def _begin(self) -> None:
        self._start, self._delivered = time.monotonic(), _delivered()
        self._told, self._read, self._next_look = _Asked(), _Asked(), _LOOK_EVERY


def _sentence(asked: int, moved: int, elapsed: float) -> str:
    return (
        f"the data loader asked for {asked / 1e9:.3g} GB and the disk delivered {moved / 1e9:.3g} GB "
        f"({moved / max(1, asked):.1f}x) in the last {elapsed:.0f} s: the windows are short beside a page, the "
        "medium reads further ahead than they are long, or memory is short and pages are read twice; longer sequences, "
        "less read-ahead (blockdev --setra, or the mount's rsize) or a copy on a local disk help."
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


def traffic() -> Traffic:
    """Return the comparison of this thread, which begins when it is first asked for."""
    found: Traffic | None = getattr(_of_thread, "traffic", None)
    if found is None:
        found = _of_thread.traffic = Traffic()
    return found
