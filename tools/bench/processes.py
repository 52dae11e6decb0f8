"""Processes and their memory, as Linux counts it."""

import contextlib
import os
import threading
from pathlib import Path


def field(pid: int, file: str, name: str) -> int:
    """A field of one of Linux's files about a process, in bytes. OSError or StopIteration when it has ended."""
    lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024


def reset_peak(pid: int) -> None:
    """Let the most memory that a process has had, VmHWM, count from now on."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")


def proportional(pid: int) -> int:
    """Bytes of a process, what it shares with others divided among them (PSS); 0 when it has ended."""
    with contextlib.suppress(OSError, StopIteration):
        return field(pid, "smaps_rollup", "Pss")
    return 0


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return children + [below for child in children for below in descendants(child)]


class LargestProcess:
    """The most memory that one of the processes that this one started has while the block runs, or this one itself.

    All of it: with the interpreter and its libraries.
    """

    def __init__(self, itself: bool = False) -> None:
        """Watch this process `itself`, or those that it started and will start."""
        self.bytes = 0
        self._itself = itself
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "LargestProcess":
        """Begin to watch."""
        for pid in self._pids():
            with contextlib.suppress(OSError):
                reset_peak(pid)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Look a last time."""
        self._end.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._end.wait(0.05):
            self._look()

    def _look(self) -> None:
        for pid in self._pids():
            with contextlib.suppress(OSError, StopIteration):
                self.bytes = max(self.bytes, field(pid, "status", "VmHWM"))

    def _pids(self) -> list[int]:
        return [os.getpid()] if self._itself else descendants(os.getpid())
