"""The first stage: what the source files are, and where they may be cut."""

from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import orjson

from data_pipeline.config import PrepareConfig
from data_pipeline.errors import DataError
from data_pipeline.execute.job import Advance, Job, Stage
from data_pipeline.execute.task import Task, working_on
from data_pipeline.files import write_atomically
from data_pipeline.read import expand, is_local, scan

_FILES = "files.json"
_BYTES_PER_TASK = 2**28
_BYTES_BETWEEN_CUTS = 2**20


@dataclass(frozen=True)
class SourceFile:
    """One file of the corpus, as the scan found it."""

    path: str
    source: int
    """Number of its source in the configuration."""
    size: int
    changed: int
    """Time of its last change in ns; 0 for a file that is not on this machine."""
    sha256: str
    """Empty for a file that is not on this machine."""
    cuts: np.ndarray
    """int64 [cuts, 2]: the places where its reading may begin, besides its beginning. A terabyte has a million."""


def source_files(job: Job) -> list[SourceFile]:
    """All files of the corpus, in order; once the scan is done."""
    return job.once(_scanned)


def _scanned(job: Job) -> list[SourceFile]:
    return [
        SourceFile(path, source, size, changed, sha256, np.array(cuts, np.int64).reshape(-1, 2))
        for task in job.finished("scan")
        for path, source, size, changed, sha256, cuts in task.result()["files"]
    ]


def _tasks(job: Job) -> list[Task]:
    """Group the files, in order, to about _BYTES_PER_TASK."""
    groups: list[list[tuple[str, int, int, int]]] = [[]]
    filled = 0
    for file in _noted(job):
        if filled >= _BYTES_PER_TASK:
            groups.append([])
            filled = 0
        groups[-1].append(file)
        filled += file[2]
    return [
        job.task("scan", index, {"files": group}, max(1, sum(file[2] for file in group)))
        for index, group in enumerate(groups)
    ]


def note_files(job: Job) -> None:
    """Write down which files there are: all processes of a preparation mean these, and need not list them again."""
    write_atomically(job.root / _FILES, orjson.dumps(_found(job.config)))
    (job.root / _FILES).chmod(0o600)  # a URL in it may hold a password


def _noted(job: Job) -> list[tuple[str, int, int, int]]:
    try:
        return [(path, *rest) for path, *rest in orjson.loads((job.root / _FILES).read_bytes())]
    except FileNotFoundError:
        return _found(job.config)


def _found(config: PrepareConfig) -> list[tuple[str, int, int, int]]:
    """(path, number of its source, size, time of change) of every file."""
    return [(path, source, *stat_of(path)) for path, source in listed(config)]


def listed(config: PrepareConfig) -> list[tuple[str, int]]:
    """(path, number of its source) of every file. DataError when one is in two sources."""
    files = [(path, number) for number, source in enumerate(config.sources) for path in expand(source)]
    for path, group in groupby(sorted(files), key=lambda file: file[0]):
        numbers = [str(number) for _, number in group]
        if len(numbers) > 1:
            raise DataError(f"{path} is in the sources {' and '.join(numbers)}; leave it in one of them.")
    return files


def stat_of(path: str) -> tuple[int, int]:
    """Size and time of change, by which a changed file is noticed."""
    if not is_local(path):
        return 0, 0
    try:
        status = Path(path).stat()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from error
    return status.st_size, status.st_mtime_ns


def refuse_changed(path: str, size: int, changed: int) -> None:
    """DataError when a file of this machine is no longer what it was when it was listed."""
    if is_local(path) and stat_of(path) != (size, changed):
        raise DataError(f"{path} changed while it was read; when it is at rest, give the same command again.")


def _run(job: Job, task: Task, advance: Advance) -> None:
    with working_on(task) as folder:
        found = []
        for path, source, size, changed in task.spec["files"]:
            scanned = scan(path, job.config.sources[source], _BYTES_BETWEEN_CUTS, advance)
            refuse_changed(path, size, changed)
            found.append((path, source, scanned.size, changed, scanned.sha256, scanned.cuts))
        folder.finish({"files": found})


STAGE = Stage("scan", "scanning the sources", _tasks, _run, unit="bytes")
