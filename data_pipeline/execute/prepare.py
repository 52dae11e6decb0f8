"""`data prepare`: from raw files to a tokenizer and shard sets for training and validation.

The work is done in the folder OUT.work, task by task, and may be stopped or killed at any moment; the next run goes on
where it was. At the end the results are put together in one folder, which is renamed to OUT. So OUT is never half done.
prepared.json in it says from what it was made; while that still holds, a second run has nothing to do.
"""

import contextlib
import hashlib
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from data_pipeline.config import PrepareConfig
from data_pipeline.errors import DataError
from data_pipeline.execute.broken import BROKEN
from data_pipeline.execute.counts import Counts
from data_pipeline.execute.drivers import driver_for
from data_pipeline.execute.drivers.driver import Driver
from data_pipeline.execute.job import Job, Stage, remove_work, work_folder
from data_pipeline.execute.pieces import cleaning_spec
from data_pipeline.execute.publish import COUNTS, RECORDS, publish, report_path, restore
from data_pipeline.execute.stages import tokenize
from data_pipeline.execute.stages.scan import listed, stat_of
from data_pipeline.execute.stages.tokenize import tokenizer_of
from data_pipeline.execute.stages.tokenizer import configured
from data_pipeline.execute.task import Task, disk_error
from data_pipeline.execute.timings import Timings
from data_pipeline.files import making
from data_pipeline.progress import progress
from data_pipeline.read import folders_of, is_local, passed_over, shown
from data_pipeline.shards import Manifest, ShardSet
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.tokenizer.fast import with_fallback
from data_pipeline.tokenizer.read import read_files
from data_pipeline.tokenizer.tokenizer import FILES

STAMP = "prepared.json"
_OURS = re.compile(
    "|".join(
        [
            *map(re.escape, (STAMP, *RECORDS, "tokenizer", *(f"tokenizer/{name}" for name in FILES))),
            r"(train|validation)(\.manifest\.json|_\d{5,}_(text_document\.(bin|idx)|documents\.npy))",
            r"\.?(train|validation)\.packed-\d+-[0-9a-f]{16}\b.*",  # plans that mixture.pack_build makes of them
        ]
    )
)
"""Every name in a folder that `prepare` made."""


@dataclass(frozen=True)
class Prepared:
    """What `prepare` made or found."""

    out: Path
    sets: dict[str, Manifest]
    """By name: train and, where there is one, validation."""
    seconds: dict[str, float]
    """By stage, over all runs that worked at it; empty for what was found."""
    up_to_date: bool
    """True when there was nothing to do."""

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The one in OUT/tokenizer."""
        return Tokenizer.load(self.out / "tokenizer")

    @property
    def num_broken(self) -> int:
        """Records that could not be read."""
        path = self.out / BROKEN
        if not path.exists():
            return 0
        with path.open("rb") as file:
            return sum(1 for _ in file)

    @property
    def unread(self) -> list[str]:
        """Sources that gave nothing but records that could not be read."""
        sources = _counted(self.out)
        return [name for name, counts in sources.items() if counts.get("broken") and not counts.get("documents")]

    @property
    def report(self) -> Path:
        """The page about it, beside `out`; beside what it leads to where it is a link."""
        return report_path(self.out.resolve())


def prepare(config: PrepareConfig, force: bool = False) -> Prepared:
    """Do what the configuration says, unless it is done already; `force` does it again.

    The same configuration and the same files give the same bytes, on any number of workers, killed or not.
    """
    seconds: dict[str, float] = {}
    _tell_passed_over(config)
    with beginning(config, force) as stamp:
        if stamp is not None:
            seconds = with_fallback(lambda fast: _do(Job.create(config), stamp, fast))
    return _opened(config.out, seconds, up_to_date=stamp is None)


def found(config: PrepareConfig) -> Prepared | None:
    """What `prepare` would find up to date; None when there is something to do."""
    return _opened(config.out, {}, up_to_date=True) if holds(config.out.resolve(), stamp_of(config)) else None


def _tell_passed_over(config: PrepareConfig) -> None:
    """Say which files of the sources' folders will not be read: nothing is left out silently."""
    found = sum((passed_over(source) for source in config.sources), Counter[str]())
    if found:
        kinds = ", ".join(f"{number:,} {kind}" for kind, number in found.most_common(8))
        print(f"note: {found.total():,} files in the sources' folders have no reader: {kinds}", file=sys.stderr)


@contextlib.contextmanager
def beginning(config: PrepareConfig, force: bool = False) -> Iterator[dict[str, Any] | None]:
    """Be the only process that makes OUT; gives the stamp of what is to be made, None when OUT is that already.

    DataError when OUT cannot be made, or must not be replaced.
    """
    stamp = stamp_of(config)
    out = config.out.resolve()
    refuse_bad_places(config, out, [path for path, *_ in stamp["files"]])
    try:
        with making(out):
            restore(out)
            if not force and holds(out, stamp):
                remove_work(out)
                yield None
            else:
                refuse_to_replace_others(out)
                yield stamp
    except OSError as error:
        raise disk_error(error, config.out) from error


def _do(job: Job, stamp: dict[str, Any], fast: bool) -> dict[str, float]:
    if not fast:
        job.distrust_fast_encoder()
    timings = Timings(job.root)
    with driver_for(job.config.execution) as driver:
        for stage in job.stages:
            if stage is tokenize.STAGE and (note := tokenizer_of(job).note):
                print(f"note: {note}", file=sys.stderr)
            with timings.of(stage.name):
                run_tasks(job, stage, job.tasks(stage.name), driver)
                job.finished(stage.name)
    finish(job, stamp, timings)
    return timings.seconds


def finish(job: Job, stamp: dict[str, Any], timings: Timings) -> None:
    """Put the results of all stages together under the name OUT, and remove the work folder."""
    publish(job, json.dumps(stamp, indent=1, ensure_ascii=False).encode(), STAMP, timings)
    remove_work(job.config.out.resolve())


def run_tasks(job: Job, stage: Stage, tasks: Sequence[Task], driver: Driver) -> None:
    """Do those of some tasks of a stage that are not done, with progress."""
    waiting = [task for task in tasks if not task.done]
    total = sum(task.size for task in tasks)
    left = {task.index: task.size for task in waiting}
    with progress(stage.doing, total, stage.unit, before=total - sum(left.values())) as advance:

        def report(index: int, size: int) -> None:
            size = min(size, left[index])
            left[index] -= size
            advance(size)

        if waiting:
            driver.run(job, stage.name, [task.index for task in waiting], report)


def stamp_of(config: PrepareConfig) -> dict[str, Any]:
    """Everything the result depends on: the settings and what they point at, the files (by size and time of change)."""
    stamp: dict[str, Any] = {"config": config.model_dump(mode="json", exclude={"out", "execution"})}
    stamp |= {key: value for key, value in cleaning_spec(config).items() if key in ("outside", "evaluation")}
    stamp["files"] = [[shown(path), *stat_of(path)] for path, _ in listed(config)]
    if config.tokenizer.kind == "load":
        stamp["tokenizer_sha256"] = configured(config.tokenizer).digest
    for place in (*stamp["config"]["sources"], stamp["config"]["decontaminate"] or {}):
        place |= {key: _shown(value) for key, value in place.items() if key in ("files", "dataset")}
    return json.loads(json.dumps(stamp))


def _shown(value: str | list[str]) -> str | list[str]:
    """Places without what is secret in a URL: the stamp is kept beside the data."""
    return shown(value) if isinstance(value, str) else [shown(place) for place in value]


def refuse_bad_places(config: PrepareConfig, out: Path, files: list[str]) -> None:
    """What is written, now or by an earlier run, must not be read."""
    for folder in (folder for source in config.sources for folder in folders_of(source)):
        if out.is_relative_to(folder.resolve()):
            raise DataError(
                f"{out} lies inside {folder}, a folder of the sources, so the next run would read what this one "
                "writes: choose another `out`."
            )
    tokenizer = [str(config.tokenizer.path)] if config.tokenizer.kind == "load" else []
    replaced = (out, work_folder(out), report_path(out))
    for path in filter(is_local, [*files, *tokenizer]):
        real = os.path.realpath(path)  # once: there may be a million files
        for ours in replaced:
            if real == str(ours) or real.startswith(f"{ours}{os.sep}"):
                raise DataError(f"{path} lies inside {ours}, which is replaced whole: choose another `out`.")


def holds(out: Path, stamp: dict[str, Any]) -> bool:
    """True when OUT was made from just this and all its files are still there."""
    try:
        if json.loads((out / STAMP).read_bytes()) != stamp:
            return False
        truth = hashlib.sha256(read_files(out / "tokenizer", None, None).truth).hexdigest()
        for name in _set_names(out):
            shards = ShardSet.open(out / name)
            shards.check_sizes()
            if shards.manifest.tokenizer_sha256 != truth:
                return False
        broken = sum(counts.get("broken", 0) for counts in _counted(out).values())
        return (out / BROKEN).exists() == (broken > 0)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError, DataError):
        return False


def _counted(out: Path) -> dict[str, Counts]:
    """What was counted, by source."""
    sources: dict[str, Counts] = json.loads((out / COUNTS).read_bytes())["sources"]
    return sources


def _set_names(out: Path) -> list[str]:
    config = json.loads((out / STAMP).read_bytes())["config"]
    return ["train", "validation"] if config["validation_fraction"] > 0 else ["train"]


def _opened(out: Path, seconds: dict[str, float], up_to_date: bool) -> Prepared:
    sets = {name: ShardSet.open(out / name).manifest for name in _set_names(out)}
    return Prepared(out, sets, seconds, up_to_date)


def refuse_to_replace_others(out: Path) -> None:
    """Only what an earlier `prepare` made may be replaced."""
    if not out.exists():
        return
    names = [str(path.relative_to(out)) for path in out.rglob("*")] if out.is_dir() else [out.name]
    others = [name for name in names if not _OURS.fullmatch(name)] if STAMP in names else names
    if others:
        raise DataError(
            f"{out} holds {min(others)}, which `data prepare` did not make; it replaces its folder whole: "
            "choose another `out`."
        )
