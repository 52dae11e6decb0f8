"""The documents that are tokenized: from the stores, without the duplicates; or read and cleaned on the way."""

from collections.abc import Iterator

import numpy as np

from data_pipeline.execute.counts import count
from data_pipeline.execute.documents import Batch, Mark, batches, source_name, text_bytes
from data_pipeline.execute.job import Advance, Job
from data_pipeline.execute.pieces import Piece, groups
from data_pipeline.execute.stages.duplicates import dropped_rows
from data_pipeline.execute.store import DOCUMENTS, Store


def num_tasks(job: Job) -> int:
    """In how many tasks the corpus is read."""
    return len(groups(job))


def size_of(job: Job, index: int) -> int:
    """Bytes of disk read for a task's documents, at least 1."""
    if job.has("clean"):
        return max(1, (job.finished("clean")[index].folder / DOCUMENTS).stat().st_size)
    return max(1, sum(piece.size for piece in groups(job)[index]))


def documents_of(job: Job, index: int, after: Mark | None, advance: Advance) -> Iterator[Batch]:
    """Yield the documents of a task in order, from behind the mark `after` on."""
    if job.has("clean"):
        return _stored(job, index, after, advance)
    return batches(job.config, groups(job)[index], after, advance)


def _stored(job: Job, index: int, after: Mark | None, advance: Advance) -> Iterator[Batch]:
    pieces = groups(job)[index]
    store = Store(job.finished("clean")[index].folder)
    dropped = dropped_rows(job, index)
    for number in range(after[0] + 1 if after else 0, len(store.blocks)):
        yield _block(job, store, number, pieces, dropped)
        advance(store.block_bytes(number))


def _block(job: Job, store: Store, number: int, pieces: list[Piece], dropped: dict[str, np.ndarray]) -> Batch:
    """One block of a store, without the duplicates, which are counted."""
    documents = store.documents(number, [piece.name for piece in pieces])
    names = {piece.name: source_name(job.config, piece.source) for piece in pieces}
    batch = Batch(mark=(number, 0, 0))
    first, keep = store.first_row(number), np.ones(len(documents), bool)
    for kind, rows in dropped.items():
        inside = rows[slice(*np.searchsorted(rows, [first, first + len(documents)]))] - first
        keep[inside] = False
        for row in inside.tolist():
            count(batch.counts, "duplicates", names[documents[row].source], kind)
            count(batch.counts, "duplicate_bytes", kind, by=text_bytes(documents[row].text))
    batch.documents = [document for document, kept in zip(documents, keep.tolist(), strict=True) if kept]
    batch.sizes = [text_bytes(document.text) for document in batch.documents]
    return batch
