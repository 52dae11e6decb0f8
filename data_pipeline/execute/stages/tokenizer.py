"""The tokenizer: one that exists, or one trained on the training side of the corpus."""

import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.execute.broken import BrokenRecords
from data_pipeline.execute.corpus import documents_of, num_tasks, size_of
from data_pipeline.execute.job import Advance, Job, Stage, inputs_digest
from data_pipeline.execute.split import TRAIN, VALIDATION, check_split, set_of
from data_pipeline.execute.stages.duplicates import duplicates_spec
from data_pipeline.execute.stages.scan import source_files
from data_pipeline.execute.task import Task, digest_of, working_on
from data_pipeline.files import sync_folder
from data_pipeline.read import Document
from data_pipeline.tokenizer import Tokenizer, train_tokenizer
from data_pipeline.tokenizer.settings import LoadTokenizer, TrainTokenizer

FOLDER = "tokenizer"
_COMPRESSED = (".gz", ".zst", ".parquet")
_RATIO = 4
"""Text is about this many times larger than its compressed file; only the size of the sample depends on it."""


def _tasks(job: Job) -> list[Task]:
    settings = job.config.tokenizer
    spec: dict[str, Any] = settings.model_dump(mode="json")
    size = 1
    if settings.kind == "load":
        spec["digest"] = configured(settings).digest
    else:
        spec["corpus"] = corpus_spec(job)
        size = sum(size_of(job, index) for index in range(num_tasks(job)))
    return [job.task("tokenizer", 0, spec, size)]


def configured(settings: LoadTokenizer) -> Tokenizer:
    """The tokenizer that a configuration names. DataError when it is missing, damaged or says too little."""
    try:
        status = settings.path.stat()
    except OSError:
        return _configured(settings, 0, 0)  # which says what is wrong
    return _configured(settings, status.st_mtime_ns, status.st_size)


@functools.lru_cache(maxsize=1)
def _configured(settings: LoadTokenizer, changed: int, size: int) -> Tokenizer:
    """A large vocabulary takes seconds to load: once is enough, while the file is the same."""
    return Tokenizer.load(settings.path, eos_token=settings.eos_token, pattern=settings.pattern)


def corpus_spec(job: Job) -> list[str]:
    """Stands for all documents that are tokenized."""
    if job.has("clean"):
        return [inputs_digest(job.finished("clean")), *duplicates_spec(job)]
    return [digest_of([file.path, file.size, file.sha256]) for file in source_files(job)]


def _run(job: Job, task: Task, advance: Advance) -> None:
    settings = job.config.tokenizer
    with working_on(task) as folder:
        if settings.kind == "load":
            tokenizer = configured(settings)
        else:
            tokenizer = _trained(job, settings, advance)
        tokenizer.save(folder.path / FOLDER)
        sync_folder(folder.path)
        folder.finish({"digest": tokenizer.digest, "vocab_size": tokenizer.vocab_size, "eos_id": tokenizer.eos_id})


def _trained(job: Job, settings: TrainTokenizer, advance: Advance) -> Tokenizer:
    seen = Counter[str]()
    broken = BrokenRecords.of(job, "clean") if job.has("clean") else BrokenRecords()
    part = share(job)
    documents = _training_documents(job, seen, broken, advance)
    chosen = (document.text for document in documents if _sampled(document, part))
    texts = first_bytes(chosen, settings.sample_bytes)
    first = next(texts, None)
    if first is None:
        check_split(job.config, seen[TRAIN], seen[VALIDATION], broken)
        raise DataError("tokenizer.sample_bytes is so small that no document is in the sample; raise it.")
    return train_tokenizer(
        chain([first], texts),
        settings.vocab_size,
        settings.model_max_length,
        settings.model,
        settings.lowercase,
        settings.special_tokens,
    )


def _training_documents(job: Job, seen: Counter[str], broken: BrokenRecords, advance: Advance) -> Iterator[Document]:
    """Yield them; notes what else was met on the way."""
    for index in range(num_tasks(job)):
        for batch in documents_of(job, index, None, advance):
            broken.add(batch.broken)
            for document in batch.documents:
                name = set_of(document, job.config)
                seen[name] += 1
                if name == TRAIN:
                    yield document


def first_bytes(texts: Iterable[str], limit: int) -> Iterator[str]:
    """The texts up to `limit` bytes of UTF-8 in all; the text that reaches further is cut there."""
    for text in texts:
        data = text[:limit].encode()[:limit]
        beginning = data.decode(errors="ignore")
        if beginning:
            yield beginning
        limit -= len(data)
        if limit == 0:
            return


def share(job: Job) -> float:
    """The share of the documents that the tokenizer is trained on, from the size of the corpus."""
    assert job.config.tokenizer.kind == "train"
    if job.has("clean"):
        results = [task.result()["counts"].get("sources", {}) for task in job.finished("clean")]
        total = sum(source.get("kept_bytes", 0) for sources in results for source in sources.values())
    else:
        total = sum(file.size * (_RATIO if file.path.endswith(_COMPRESSED) else 1) for file in source_files(job))
    return min(1.0, job.config.tokenizer.sample_bytes / max(1, total))


def _sampled(document: Document, share: float) -> bool:
    """Choose by a hash of the identity: the same documents, however the corpus is divided."""
    if share >= 1:
        return True
    digest = hashlib.blake2b(document.identity.encode(), digest_size=8, person=b"sample").digest()
    return int.from_bytes(digest, "little") < share * 2.0**64


STAGE = Stage("tokenizer", "making the tokenizer", _tasks, _run, "bytes", alone=True)
