"""Read and clean, once: the documents go into stores on disk, with what duplicates are found by."""

from typing import BinaryIO

from data_pipeline.config import PrepareConfig
from data_pipeline.dedup.exact import exact_keys
from data_pipeline.dedup.minhash import band_hashes
from data_pipeline.dedup.runs import write_runs
from data_pipeline.execute.broken import BROKEN, refuse_many_broken
from data_pipeline.execute.counts import Counts, add
from data_pipeline.execute.documents import Batch, batches
from data_pipeline.execute.job import Advance, Job, Stage
from data_pipeline.execute.pieces import cleaning_spec, groups, spec_of
from data_pipeline.execute.stages.scan import source_files
from data_pipeline.execute.store import BLOCKS, DOCUMENTS, StoreWriter
from data_pipeline.execute.task import Task, TaskFolder, working_on
from data_pipeline.read import Document

_KEYS, _BANDS = "keys.raw", "bands.raw"


def _tasks(job: Job) -> list[Task]:
    files, settings = source_files(job), cleaning_spec(job.config)
    signatures = (
        job.config.deduplicate.model_dump(mode="json", exclude={"near": {"threshold"}})
        if (job.config.deduplicate)
        else None
    )
    return [
        job.task(
            "clean",
            index,
            {"pieces": spec_of(job, pieces, files), "cleaning": settings, "signatures": signatures},
            sum(piece.size for piece in pieces),
        )
        for index, pieces in enumerate(groups(job))
    ]


def _run(job: Job, task: Task, advance: Advance) -> None:
    pieces = groups(job)[task.index]
    with working_on(task) as folder:
        state = folder.state or {"mark": None, "rows": 0, "counts": {}, "done": 0}
        advance(state["done"])
        counts, rows, done = state["counts"], state["rows"], state["done"]

        def tell(size: int) -> None:
            nonlocal done
            done += size
            advance(size)

        numbers = {piece.name: number for number, piece in enumerate(pieces)}
        store = StoreWriter(folder.file(DOCUMENTS), folder.file(BLOCKS), rows, numbers)
        for batch in batches(job.config, pieces, state["mark"] and tuple(state["mark"]), tell):
            _write(job.config, batch, folder, store)
            add(counts, batch.counts)
            rows += len(batch.documents)
            if folder.record_due:
                folder.record({"mark": batch.mark, "rows": rows, "counts": counts, "done": done})
        _finish(job.config, task, folder, {"rows": rows, "counts": counts})


def _write(config: PrepareConfig, batch: Batch, folder: TaskFolder, store: StoreWriter) -> None:
    folder.file(BROKEN).write(batch.broken_lines())
    if not batch.documents:
        return
    store.add(batch.documents)
    if config.deduplicate:
        _sign(config, batch.documents, folder.file(_KEYS), folder.file(_BANDS))


def _sign(config: PrepareConfig, documents: list[Document], keys: BinaryIO, bands: BinaryIO) -> None:
    """Note what duplicates of these documents would share with them."""
    assert config.deduplicate
    texts = [document.text for document in documents]
    if config.deduplicate.exact:
        keys.write(exact_keys(texts).astype("<u8").tobytes())
    if config.deduplicate.near:
        bands.write(band_hashes(texts, config.deduplicate.near).astype("<u8").tobytes())


def _finish(config: PrepareConfig, task: Task, folder: TaskFolder, result: Counts) -> None:
    wanted = config.deduplicate
    if wanted:
        for name in (_KEYS, _BANDS):
            folder.file(name).flush()
        near = wanted.near
        write_runs(
            folder.path,
            task.index,
            folder.path / _KEYS if wanted.exact else None,
            folder.path / _BANDS if near else None,
            near.bands if near else 0,
            config.execution.memory_per_worker,
        )
    folder.finish(result, remove=(_KEYS, _BANDS))


STAGE = Stage("clean", "cleaning", _tasks, _run, unit="bytes", check=lambda job: refuse_many_broken(job, "clean"))
