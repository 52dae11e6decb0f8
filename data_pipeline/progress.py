"""How far a long job is: a bar with rate and time left on a terminal, a line every ten seconds elsewhere."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.text import Text

_SECONDS = 10.0


@contextlib.contextmanager
def progress(what: str, total: int, unit: str = "bytes", before: int = 0) -> Iterator[Callable[[int], None]]:
    """Show how many of `total` units are done on stderr; yields the function to tell it of more.

    `before` of them were done by an earlier run: they count neither for the rate nor for the time left.
    """
    if sys.stderr.isatty():
        with _bar(unit) as bar:
            task = bar.add_task(what, total=total, completed=before)
            yield lambda done: bar.advance(task, done)
    else:
        yield _Lines(what, total, unit, before)


def _bar(unit: str) -> Progress:
    amounts = (DownloadColumn(), TransferSpeedColumn()) if unit == "bytes" else (MofNCompleteColumn(), _Rate(unit))
    columns = (TextColumn("{task.description}"), BarColumn(), *amounts, TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


class _Rate(ProgressColumn):
    """What is counted, and how many of them a second as soon as that is known."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{self._unit} {task.speed:.1f}/s" if task.speed else self._unit)


class _Lines:
    """Plain lines, none at all for a job shorter than ten seconds."""

    def __init__(self, what: str, total: int, unit: str, before: int) -> None:
        self._what, self._total, self._before, self._done = what, total, before, before
        self._scale, self._rate = (1e6, "MB/s") if unit == "bytes" else (1.0, f"{unit}/s")
        self._start = self._last = time.monotonic()

    def __call__(self, done: int) -> None:
        self._done += done
        now = time.monotonic()
        if now - self._last < _SECONDS:
            return
        self._last = now
        rate = (self._done - self._before) / (now - self._start)
        left = max(0, self._total - self._done) / max(rate, 1e-9)
        share = self._done / max(1, self._total)
        speed = f"{rate / self._scale:.1f} {self._rate}"
        print(f"{self._what}: {share:.0%}, {speed}, {left:.0f} s left", file=sys.stderr, flush=True)
