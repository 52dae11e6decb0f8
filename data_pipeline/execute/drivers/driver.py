"""What a driver is."""

import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Self

from data_pipeline.execute.job import Job

Report = Callable[[int, int], object]
"""Told (index of a task, how much of its size is done since the last call)."""


class Driver(Protocol):
    """Does the tasks of a stage somewhere; entered for a whole preparation."""

    def __enter__(self) -> Self:
        """Get ready; what it needs is started when it is first needed."""

    def __exit__(self, *details: object) -> None:
        """Stop everything it started."""

    def run(self, job: Job, stage: str, tasks: Sequence[int], report: Report) -> None:
        """Do these tasks of a stage, in any order. DataError, at the first that fails, once none is at work."""


def module_paths() -> list[str]:
    """Where this process finds modules, besides those of its interpreter: another machine may have its own."""
    theirs = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")}
    paths = [str(Path(path).absolute()) for path in sys.path if path and Path(path).exists()]
    return [path for path in paths if not any(Path(path).is_relative_to(other) for other in theirs)]
