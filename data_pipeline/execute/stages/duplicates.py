"""Which documents are duplicates of earlier ones: everything goes through sorted files, nothing through memory."""

from pathlib import Path

import numpy as np

from data_pipeline.dedup.confirm import confirm
from data_pipeline.dedup.exact import find_exact
from data_pipeline.dedup.near import find_candidates
from data_pipeline.dedup.runs import parts_for, unite
from data_pipeline.dedup.settings import NearDuplicates
from data_pipeline.execute.job import Advance, Job, Stage, inputs_digest
from data_pipeline.execute.store import Texts
from data_pipeline.execute.task import Task, working_on

_FOUND = "found.npy"


def dropped_rows(job: Job, task: int) -> dict[str, np.ndarray]:
    """By kind (exact, near): the rows of a clean task that are duplicates, int64, sorted."""
    return {
        kind: _within(np.load(file, mmap_mode="r"), task)
        for kind, file in (("exact", _exact_file(job)), ("near", _near_file(job, task)))
        if file
    }


def duplicates_spec(job: Job) -> list[str]:
    """Stands for all duplicates found."""
    return [inputs_digest(job.finished(stage)) for stage in ("united", "confirm") if job.has(stage)]


def _within(found: np.ndarray, task: int) -> np.ndarray:
    """The rows of a task among sorted document numbers, or among sorted records with a field `later`."""
    numbers = found["later"] if found.dtype.names else found
    first, end = np.searchsorted(numbers, np.array([task << 32, (task + 1) << 32], np.uint64))
    return (numbers[first:end] & np.uint64(2**32 - 1)).astype(np.int64)


def _exact_file(job: Job) -> Path | None:
    return job.finished("united")[0].folder / _FOUND if job.has("united") else None


def _near_file(job: Job, task: int) -> Path | None:
    return job.finished("confirm")[task].folder / _FOUND if job.has("confirm") else None


def _runs(job: Job) -> list[Path]:
    return [task.folder for task in job.finished("clean")]


def _parts(job: Job) -> int:
    """How many ranges the hashes are cut into, so that one fits into a worker's memory."""
    rows = sum(task.result()["rows"] for task in job.finished("clean"))
    return parts_for(rows, job.config.execution.memory_per_worker)


def _exact_tasks(job: Job) -> list[Task]:
    parts, inputs = _parts(job), inputs_digest(job.finished("clean"))
    return [job.task("exact", part, {"inputs": inputs, "parts": parts}) for part in range(parts)]


def _exact_run(job: Job, task: Task, advance: Advance) -> None:
    with working_on(task) as folder:
        memory = job.config.execution.memory_per_worker
        found = find_exact(_runs(job), task.index, task.spec["parts"], memory, folder.path / _FOUND)
        folder.finish({"found": found})


def _united_tasks(job: Job) -> list[Task]:
    return [job.task("united", 0, {"inputs": inputs_digest(job.finished("exact"))})]


def _united_run(job: Job, task: Task, advance: Advance) -> None:
    with working_on(task) as folder:
        files = [part.folder / _FOUND for part in job.finished("exact")]
        found = unite(files, folder.path / _FOUND, job.config.execution.memory_per_worker)
        folder.finish({"found": found})


def _candidate_tasks(job: Job) -> list[Task]:
    near, parts = _near(job), _parts(job)
    inputs = [inputs_digest(job.finished(stage)) for stage in ("clean", "united") if job.has(stage)]
    return [
        job.task("candidates", band * parts + part, {"inputs": inputs, "band": band, "part": part, "parts": parts})
        for band in range(near.bands)
        for part in range(parts)
    ]


def _candidate_run(job: Job, task: Task, advance: Advance) -> None:
    band, part, parts = (task.spec[name] for name in ("band", "part", "parts"))
    bands, exact = _near(job).bands, _exact_file(job)
    with working_on(task) as folder:
        memory = job.config.execution.memory_per_worker
        found = find_candidates(_runs(job), bands, band, part, parts, exact, memory, folder.path / _FOUND)
        folder.finish({"found": found})


def _confirm_tasks(job: Job) -> list[Task]:
    spec = {"inputs": inputs_digest(job.finished("candidates")), "threshold": _near(job).threshold}
    return [job.task("confirm", index, spec) for index in range(len(job.finished("clean")))]


def _confirm_run(job: Job, task: Task, advance: Advance) -> None:
    pairs = [part.folder / _FOUND for part in job.finished("candidates")]
    first, end = task.index << 32, (task.index + 1) << 32
    with working_on(task) as folder:
        memory = job.config.execution.memory_per_worker
        found = confirm(pairs, first, end, Texts(_runs(job)), _near(job), memory, folder.path / _FOUND)
        folder.finish({"found": found})


def _near(job: Job) -> NearDuplicates:
    assert job.config.deduplicate and job.config.deduplicate.near
    return job.config.deduplicate.near


EXACT = Stage("exact", "finding equal documents", _exact_tasks, _exact_run)
UNITED = Stage("united", "gathering equal documents", _united_tasks, _united_run, alone=True)
CANDIDATES = Stage("candidates", "finding similar documents", _candidate_tasks, _candidate_run)
CONFIRM = Stage("confirm", "comparing similar documents", _confirm_tasks, _confirm_run)
