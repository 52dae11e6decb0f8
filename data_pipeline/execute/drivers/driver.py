"""What a driver is."""

from collections.abc import Callable, Sequence
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
