"""Records that could not be read: how many, and what is told of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from data_pipeline.errors import DataError
from data_pipeline.execute.counts import merged
from data_pipeline.execute.job import Job
from data_pipeline.read import Broken, shown

BROKEN = "broken.jsonl"
"""The records that could not be read, in the folder of each task that reads."""


@dataclass
class BrokenRecords:
    """Those met so far."""

    count: int = 0
    records: int = 0
    """All that were met, broken or not, where that is known."""
    first: dict[str, Any] | None = None
    """As `described`."""

    @classmethod
    def of(cls, job: Job, stage: str) -> Self:
        """Those of the tasks of a stage that are done."""
        done = [task for task in job.tasks(stage) if task.done]
        sources = merged(task.result()["counts"] for task in done).get("sources", {}).values()
        count = sum(source.get("broken", 0) for source in sources)
        read = sum(source.get("documents", 0) for source in sources)
        return cls(count, count + read, _first([task.folder / BROKEN for task in done]) if count else None)

    def add(self, broken: Sequence[Broken]) -> None:
        """Take more of them."""
        self.count += len(broken)
        if self.first is None and broken:
            self.first = described(broken[0])

    def told(self) -> str:
        """A sentence about the first; nothing when there are none."""
        if self.first is None:
            return ""
        place = f"{self.first['source']}, record {self.first['record']} (byte {self.first['offset']})"
        return f"The first: {place}: {self.first['reason']}."


def described(record: Broken) -> dict[str, str | int]:
    """A record as it is written down for people."""
    return {
        "source": shown(record.source),
        "record": record.position,
        "offset": record.offset,
        "reason": record.reason,
        "begins": record.excerpt.decode(errors="backslashreplace"),
    }


def refuse_many_broken(job: Job, stage: str) -> None:
    """Stop when more records than allowed could not be read, in the tasks done. DataError shows the first of them."""
    broken, config = BrokenRecords.of(job, stage), job.config
    if broken.count <= config.max_broken_records or broken.count <= config.max_broken_fraction * broken.records:
        return
    raise DataError(
        f"{broken.count:,} of {broken.records:,} records cannot be read: more than "
        f"max_broken_records={config.max_broken_records} and max_broken_fraction={config.max_broken_fraction} allow. "
        f"{broken.told()} All are in {job.tasks(stage)[0].folder.parent}/*/{BROKEN}: mend the sources, or allow more."
    )


def _first(paths: list[Path]) -> dict[str, Any] | None:
    for path in paths:
        if path.exists() and path.stat().st_size:
            with path.open("rb") as file:
                return orjson.loads(file.readline())
    return None
