"""Documents to token ids: for each task and shard set a file of ids and a file of rows, one a document."""

import functools
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.execute.broken import BROKEN, refuse_many_broken
from data_pipeline.execute.corpus import documents_of, size_of
from data_pipeline.execute.counts import Counts, add, observe
from data_pipeline.execute.documents import Batch, source_name
from data_pipeline.execute.job import Advance, Job, Stage
from data_pipeline.execute.pieces import cleaning_spec, groups, spec_of
from data_pipeline.execute.split import set_of
from data_pipeline.execute.stages.duplicates import duplicates_spec
from data_pipeline.execute.stages.scan import source_files
from data_pipeline.execute.stages.tokenizer import FOLDER
from data_pipeline.execute.task import Task, TaskFolder, working_on
from data_pipeline.read import Document
from data_pipeline.shards.manifest import PROVENANCE, dtype_for
from data_pipeline.shards.megatron import LONGEST
from data_pipeline.tokenizer import Tokenizer

ROW = np.dtype([("length", "<i4"), *PROVENANCE.descr])
"""One a document: its tokens, with that of its end, and where it came from; `file` counts within the task."""


def tokens_file(name: str) -> str:
    """The ids of one shard set, end-of-document tokens included."""
    return f"{name}.tokens"


def rows_file(name: str) -> str:
    """The rows of one shard set."""
    return f"{name}.rows"


def tokenizer_of(job: Job) -> Tokenizer:
    """The tokenizer that the job made or loaded, with the fast encoder unless that was found to differ."""
    return _loaded(job.finished("tokenizer")[0].folder / FOLDER, not job.reference_encoder)


@functools.lru_cache(maxsize=1)
def _loaded(folder: Path, fast: bool) -> Tokenizer:
    return Tokenizer.load(folder, fast=fast)


def _tasks(job: Job) -> list[Task]:
    common = {
        "tokenizer": job.finished("tokenizer")[0].digest,
        "split": job.config.model_dump(mode="json", include={"validation_fraction", "split_seed"}),
        "encoder": "reference" if job.reference_encoder else "fast",
    }
    if job.has("clean"):
        duplicates = duplicates_spec(job)
        specs: list[dict[str, Any]] = [
            {"documents": task.digest, "duplicates": duplicates} for task in job.finished("clean")
        ]
    else:
        files, cleaning = source_files(job), cleaning_spec(job.config)
        specs = [{"pieces": spec_of(job, pieces, files), "cleaning": cleaning} for pieces in groups(job)]
    return [job.task("tokenize", index, {**spec, **common}, size_of(job, index)) for index, spec in enumerate(specs)]


def _run(job: Job, task: Task, advance: Advance) -> None:
    tokenizer = tokenizer_of(job)
    pieces = groups(job)[task.index]
    numbers = {piece.name: number for number, piece in enumerate(pieces)}
    names = {piece.name: source_name(job.config, piece.source) for piece in pieces}
    with working_on(task) as folder:
        state = folder.state or {"mark": None, "counts": {}, "done": 0}
        counts, done = state["counts"], state["done"]
        advance(done)

        def tell(size: int) -> None:
            nonlocal done
            done += size
            advance(size)

        for batch in documents_of(job, task.index, state["mark"] and tuple(state["mark"]), tell):
            folder.file(BROKEN).write(batch.broken_lines())
            add(counts, batch.counts)
            _write(job, batch, tokenizer, folder, numbers, names, counts)
            if folder.record_due:
                folder.record({"mark": batch.mark, "counts": counts, "done": done})
        folder.finish({"counts": counts})


def _write(
    job: Job,
    batch: Batch,
    tokenizer: Tokenizer,
    folder: TaskFolder,
    numbers: dict[str, int],
    names: dict[str, str],
    counts: Counts,
) -> None:
    """Encode the documents of a batch and append them to the files of their sets."""
    by_set: dict[str, list[int]] = defaultdict(list)
    for place, document in enumerate(batch.documents):
        by_set[set_of(document, job.config)].append(place)
    dtype = np.dtype(dtype_for(tokenizer.vocab_size)).newbyteorder("<")
    for name, places in by_set.items():
        documents = [batch.documents[place] for place in places]
        ids, lengths = tokenizer.encode_flat([document.text for document in documents])
        _refuse_too_long(documents, lengths)
        folder.file(tokens_file(name)).write(_ended(ids, lengths, tokenizer.eos_id, dtype))
        folder.file(rows_file(name)).write(_rows(documents, lengths, numbers))
        _count(counts, name, documents, [batch.sizes[place] for place in places], lengths, names)


def _refuse_too_long(documents: list[Document], lengths: np.ndarray) -> None:
    if len(lengths) and lengths.max() >= LONGEST:
        document = documents[int(lengths.argmax())]
        raise DataError(
            f"{document.source}, record {document.position} has {lengths.max()} tokens; a document can hold "
            f"{LONGEST - 1}: split it."
        )


def _ended(ids: np.ndarray, lengths: np.ndarray, eos_id: int, dtype: np.dtype) -> memoryview:
    """The ids of all documents, an end-of-document token behind each."""
    ended = np.empty(len(ids) + len(lengths), dtype)
    ends = np.cumsum(lengths + 1) - 1
    inside = np.ones(len(ended), bool)
    inside[ends] = False
    ended[inside] = ids
    ended[ends] = eos_id
    return ended.data.cast("B")


def _rows(documents: list[Document], lengths: np.ndarray, numbers: dict[str, int]) -> bytes:
    rows = np.empty(len(documents), ROW)
    rows["length"] = lengths + 1
    rows["file"] = [numbers[document.source] for document in documents]
    rows["record"] = [document.position for document in documents]
    rows["offset"] = [document.offset for document in documents]
    rows["id_hash"] = [document.identity_hash for document in documents]
    return rows.tobytes()


def _count(
    counts: Counts,
    name: str,
    documents: list[Document],
    sizes: list[int],
    lengths: np.ndarray,
    names: dict[str, str],
) -> None:
    """Count documents, tokens and bytes by set, source and language."""
    kinds: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    for document, size, length in zip(documents, sizes, lengths.tolist(), strict=True):
        total = kinds[document.source, document.language or "unknown"]
        total[0] += 1
        total[1] += length
        total[2] += size
    for (source, language), total in kinds.items():
        found = dict(zip(("documents", "tokens", "text_bytes"), total, strict=True))
        add(counts, {"sets": {name: found}, "tokenized": {names[source]: found}, "by_language": {language: found}})
    observe(counts, "tokens_of_documents", lengths)


def _check(job: Job) -> None:
    if not job.has("clean"):
        refuse_many_broken(job, "tokenize")


STAGE = Stage("tokenize", "tokenizing", _tasks, _run, unit="bytes", check=_check)
