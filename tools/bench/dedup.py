"""Deduplication of a corpus whose duplicates are known: what is found, how fast, and with how much memory."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from data_pipeline.config import Execution, PrepareConfig
from data_pipeline.dedup.exact import exact_keys
from data_pipeline.dedup.minhash import band_hashes
from data_pipeline.dedup.settings import Deduplicate, NearDuplicates
from data_pipeline.execute.drivers import driver_for
from data_pipeline.execute.job import Job
from data_pipeline.execute.stages.duplicates import dropped_rows
from data_pipeline.progress import progress
from data_pipeline.read.settings import FilesSource
from data_pipeline.tokenizer.settings import LoadTokenizer
from tools.bench.dedup_corpus import EXACT, NGRAM, Corpus, Planted
from tools.bench.processes import LargestProcess

_AT_ONCE = 10_000
_BARE = """
import data_pipeline.execute.worker, data_pipeline.execute.pipeline
print(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1])
"""


def measure_dedup(documents: int, workers: int, memory: int, folder: Path | None = None) -> dict[str, Any]:
    """Make a corpus, run the stages of `data prepare` that find duplicates, and compare with what was planted.

    `memory` is execution.memory_per_worker in bytes; `folder`: where to work, unset: where temporary files go.
    Returns stages (name, seconds, documents_per_second, megabytes_per_second, peak_bytes of the largest process),
    hashing (megabytes of text a second of one core's time, for exact keys and for bands),
    exact and near (planted, found, recall, precision), classes (recall by similarity, and what theory expects),
    bytes of the text, bare_bytes of a worker that has done nothing.
    """
    corpus = Corpus(documents)
    with tempfile.TemporaryDirectory(prefix="megamodel-", dir=folder) as temporary:
        path = Path(temporary) / "corpus.jsonl"
        size = _write(corpus, path)
        config = _config(path, workers, memory)
        job = Job.create(config)
        stages = _run(job, documents, size)
        exact, near = (_dropped(job, kind, documents) for kind in ("exact", "near"))
    planted = list(corpus.planted())
    threshold = NearDuplicates().threshold
    return {
        "documents": documents,
        "bytes": size,
        "workers": workers,
        "memory_per_worker": memory,
        "bare_bytes": _bare(),
        "stages": stages,
        "seconds": sum(stage["seconds"] for stage in stages),
        "hashing": _hashing(corpus),
        "exact": _score(exact, [each for each in planted if each.similarity == EXACT]),
        "near": _score(near, [each for each in planted if threshold <= each.similarity < EXACT]),
        "classes": [_class(near, each) for each in planted if each.similarity < EXACT],
    }


def _write(corpus: Corpus, path: Path) -> int:
    """Write the corpus as .jsonl; return the bytes of its texts, all ASCII."""
    size = 0
    with path.open("wb") as file, progress("making the corpus", corpus.documents, "documents") as advance:
        for first in range(0, corpus.documents, _AT_ONCE):
            texts = corpus.texts(first, min(first + _AT_ONCE, corpus.documents))
            size += sum(map(len, texts))
            file.write(b"".join(orjson.dumps({"text": text}, option=orjson.OPT_APPEND_NEWLINE) for text in texts))
            advance(len(texts))
    return size


def _config(path: Path, workers: int, memory: int) -> PrepareConfig:
    """What `data prepare` would be told; the stages behind deduplication are not run."""
    return PrepareConfig(
        out=path.parent / "out",
        sources=[FilesSource(kind="files", files=[str(path)])],
        deduplicate=Deduplicate(exact=True, near=NearDuplicates(ngram=NGRAM)),
        tokenizer=LoadTokenizer(kind="load", path=path),
        execution=Execution(workers=workers, memory_per_worker=memory),
    )


def _run(job: Job, documents: int, size: int) -> list[dict[str, Any]]:
    """Do the stages up to the last one of deduplication; return the figures of each."""
    figures = []
    with driver_for(job.config.execution) as driver:
        for stage in job.stages:
            start = time.perf_counter()
            tasks = job.tasks(stage.name)
            # A stage of one task, and one worker, run in this process.
            with LargestProcess(itself=len(tasks) == 1 or job.config.execution.workers == 1) as largest:
                with progress(stage.doing, sum(task.size for task in tasks), stage.unit) as advance:
                    driver.run(job, stage.name, [task.index for task in tasks], lambda _, done: advance(done))
                job.finished(stage.name)
            seconds = time.perf_counter() - start
            figures.append(
                {
                    "name": stage.name,
                    "seconds": seconds,
                    "documents_per_second": documents / seconds,
                    "megabytes_per_second": size / 1e6 / seconds,
                    "peak_bytes": largest.bytes,
                }
            )
            if stage.name == "confirm":
                break
    return figures


def _dropped(job: Job, kind: str, documents: int) -> np.ndarray:
    """[documents] Which documents, by their position in the corpus, are dropped as duplicates of a kind."""
    dropped = np.zeros(documents, bool)
    first = 0
    for task in job.finished("clean"):
        dropped[first + dropped_rows(job, task.index)[kind]] = True
        first += task.result()["rows"]
    if first != documents:
        raise RuntimeError(f"{first} documents of {documents} were read")
    return dropped


def _score(dropped: np.ndarray, planted: list[Planted]) -> dict[str, Any]:
    """Recall and precision: of the planted copies, and of what was dropped."""
    wanted = np.zeros_like(dropped)
    for each in planted:
        wanted[each.later] = True
    right = int((wanted & dropped).sum())
    return {
        "planted": int(wanted.sum()),
        "found": int(dropped.sum()),
        "recall": right / max(1, int(wanted.sum())),
        "precision": right / max(1, int(dropped.sum())),
    }


def _class(dropped: np.ndarray, planted: Planted) -> dict[str, Any]:
    """How many copies of one similarity were dropped, beside the share that banding promises to compare."""
    near = NearDuplicates()
    compared = float(np.vectorize(near.compared)(planted.exact).mean())
    return {
        "similarity": planted.similarity,
        "mean": float(planted.exact.mean()),
        "planted": len(planted.later),
        "dropped": int(dropped[planted.later].sum()),
        "expected": compared if planted.similarity >= near.threshold else 0.0,
    }


def _hashing(corpus: Corpus) -> dict[str, float]:
    """Megabytes of text a second of processor time: whatever else the machine does counts less so."""
    texts = corpus.texts(0, min(corpus.documents, _AT_ONCE))
    size = sum(map(len, texts)) / 1e6
    ways: dict[str, Callable[[], object]] = {
        "exact": lambda: exact_keys(texts),
        "bands": lambda: band_hashes(texts, NearDuplicates(ngram=NGRAM)),
    }
    rates = {}
    for name, way in ways.items():
        way()
        start = time.process_time()
        way()
        rates[name] = size / (time.process_time() - start)
    return rates


def _bare() -> int:
    """Bytes of a worker that has loaded its libraries, and no more."""
    done = subprocess.run([sys.executable, "-c", _BARE], capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024
