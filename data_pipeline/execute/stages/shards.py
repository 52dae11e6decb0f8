"""Token ids to the final shards. Where one ends depends on the order of the documents and tokens_per_shard alone."""

import hashlib
import io
import os
import shutil
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.execute.broken import BrokenRecords
from data_pipeline.execute.counts import merged
from data_pipeline.execute.job import Advance, Job, Stage
from data_pipeline.execute.pieces import groups
from data_pipeline.execute.split import TRAIN, VALIDATION, check_split, set_names
from data_pipeline.execute.stages.tokenize import ROW, rows_file, tokens_file
from data_pipeline.execute.task import Task, TaskFolder, working_on
from data_pipeline.shards.manifest import PROVENANCE, FileRecord, ShardRecord, dtype_for
from data_pipeline.shards.megatron import index_blocks

_COPIED = 1 << 24
_AT_ONCE = 1 << 18
"""Documents to look at at once: a shard of short ones has a hundred million."""


class Part(NamedTuple):
    """Documents of one task that go into a shard, in order."""

    task: int
    first_row: int
    end_row: int
    first_token: int
    end_token: int

    @property
    def rows(self) -> slice:
        """Of the task's rows, those of this part."""
        return slice(self.first_row, self.end_row)


def divided(lengths: Iterable[np.ndarray], tokens_per_shard: int) -> Iterator[list[Part]]:
    """Yield the parts of each shard, given the lengths of the documents of each task.

    A shard is closed when the next document would not fit; a longer one has a shard of its own.
    """
    parts: list[Part] = []
    filled = 0
    for task, found in enumerate(lengths):
        ends = np.cumsum(found, dtype=np.int64)
        row = 0
        while row < len(ends):
            before = int(ends[row - 1]) if row else 0
            fitting = int(np.searchsorted(ends, before + tokens_per_shard - filled, side="right"))
            end = max(fitting, row if filled else row + 1)
            if end > row:
                parts.append(Part(task, row, end, before, int(ends[end - 1])))
                filled += int(ends[end - 1]) - before
                row = end
            if row < len(ends):
                yield parts
                parts, filled = [], 0
    if parts:
        yield parts


def shard_tasks(job: Job, name: str) -> list[Task]:
    """The tasks that make the shards of one set, in order."""
    return [task for task in job.finished("shards") if task.spec["set"] == name]


def _tasks(job: Job) -> list[Task]:
    inputs = job.finished("tokenize")
    counts = merged(task.result()["counts"] for task in inputs).get("sets", {})
    broken = BrokenRecords.of(job, "clean" if job.has("clean") else "tokenize")
    train, validation = (counts.get(name, {}).get("documents", 0) for name in (TRAIN, VALIDATION))
    check_split(job.config, train, validation, broken)
    tasks: list[Task] = []
    files = _global_numbers(job)
    dtype = dtype_for(job.finished("tokenizer")[0].result()["vocab_size"])
    for name in set_names(job.config):
        lengths = (_rows_of(task, name)["length"] for task in inputs)
        for number, parts in enumerate(divided(lengths, job.config.tokens_per_shard)):
            spec: dict[str, Any] = {
                "set": name,
                "number": number,
                "dtype": dtype,
                "parts": [[*part, inputs[part.task].digest, files[part.task]] for part in parts],
            }
            tokens = sum(part.end_token - part.first_token for part in parts)
            tasks.append(job.task("shards", len(tasks), spec, tokens * np.dtype(dtype).itemsize))
    return tasks


def _global_numbers(job: Job) -> list[list[int]]:
    """For each task, the numbers in the corpus of the files that its rows count from 0."""
    return [[piece.file for piece in pieces] for pieces in groups(job)]


def _rows_of(task: Task, name: str) -> np.ndarray:
    path = task.folder / rows_file(name)
    if not path.exists() or path.stat().st_size == 0:
        return np.empty(0, ROW)
    return np.memmap(path, ROW, mode="r")


def _run(job: Job, task: Task, advance: Advance) -> None:
    inputs = job.finished("tokenize")
    parts = [(Part(*part[:5]), part[6]) for part in task.spec["parts"]]
    name = f"{task.spec['set']}_{task.spec['number']:05d}"
    with working_on(task) as folder:
        lengths = np.concatenate([_rows_of(inputs[p.task], task.spec["set"])["length"][p.rows] for p, _ in parts])
        provenance = chain.from_iterable(_provenance(inputs[p.task], task.spec["set"], p, files) for p, files in parts)
        record = ShardRecord(
            num_documents=len(lengths),
            num_tokens=int(lengths.sum(dtype=np.int64)),
            bin=_copy(folder, task, f"{name}_text_document.bin", [p for p, _ in parts], inputs, advance),
            idx=_put(folder, f"{name}_text_document.idx", index_blocks(task.spec["dtype"], lengths)),
            documents=_put(folder, f"{name}_documents.npy", chain([_npy_header(len(lengths))], provenance)),
        )
        folder.finish({"shard": record.model_dump(mode="json")})


def _provenance(task: Task, name: str, part: Part, files: list[int]) -> Iterator[bytes]:
    """The provenance of a part, with the numbers of the files in the whole corpus, some documents at a time."""
    numbers = np.array(files, "<u4")
    for first in range(part.first_row, part.end_row, _AT_ONCE):
        rows = _rows_of(task, name)[first : min(first + _AT_ONCE, part.end_row)]
        provenance = np.empty(len(rows), PROVENANCE)
        for field in PROVENANCE.names or ():
            provenance[field] = rows[field] if field != "file" else numbers[rows["file"]]
        yield provenance.tobytes()


def _npy_header(documents: int) -> bytes:
    out = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(PROVENANCE)
    header = {"descr": descr, "fortran_order": False, "shape": (documents,)}
    np.lib.format.write_array_header_1_0(out, header)
    return out.getvalue()


def _put(folder: TaskFolder, name: str, blocks: Iterable[bytes]) -> FileRecord:
    (folder.path / name).unlink(missing_ok=True)
    digest, size = hashlib.sha256(), 0
    for block in blocks:
        folder.file(name).write(block)
        digest.update(block)
        size += len(block)
    return FileRecord(name=name, size=size, sha256=digest.hexdigest())


def _copy(
    folder: TaskFolder, task: Task, name: str, parts: list[Part], inputs: list[Task], advance: Advance
) -> FileRecord:
    """Join the ids of all parts, going on where an earlier attempt was stopped."""
    itemsize = np.dtype(task.spec["dtype"]).itemsize
    out = folder.file(name)
    there = (folder.path / name).stat().st_size
    digest = _digest_of_first(folder.path / name, there)
    advance(there)
    place = 0
    for part in parts:
        size = (part.end_token - part.first_token) * itemsize
        skip = min(size, max(0, there - place))
        source = inputs[part.task].folder / tokens_file(task.spec["set"])
        for block in _blocks(source, part.first_token * itemsize + skip, size - skip):
            out.write(block)
            digest.update(block)
            advance(len(block))
            if folder.record_due:
                folder.record({})
        place += size
    return FileRecord(name=name, size=place, sha256=digest.hexdigest())


def _digest_of_first(path: Path, size: int) -> "hashlib._Hash":
    digest = hashlib.sha256()
    for block in _blocks(path, 0, size):
        digest.update(block)
    return digest


def _blocks(path: Path, start: int, size: int) -> Iterator[bytes]:
    with path.open("rb") as file:
        file.seek(start)
        while size:
            block = file.read(min(size, _COPIED))
            if not block:
                raise DataError(f"{path} is shorter than it was; remove its folder and give the command again.")
            yield block
            size -= len(block)


def collect(job: Job, out: Path) -> None:
    """Give the finished shards a name in the folder `out` too; they also stay in the tasks' folders."""
    for task in job.finished("shards"):
        for name in (task.result()["shard"][kind]["name"] for kind in ("bin", "idx", "documents")):
            try:
                os.link(task.folder / name, out / name)
            except OSError:  # a file system without links
                shutil.copyfile(task.folder / name, out / name)


STAGE = Stage("shards", "writing shards", _tasks, _run, unit="bytes")
