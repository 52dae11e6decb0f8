"""The end of a preparation: all results in one folder, with manifests and counts, renamed to its place."""

import json
import os
import shutil
from pathlib import Path

from data_pipeline.clean.cleaner import step_names
from data_pipeline.execute.broken import BROKEN
from data_pipeline.execute.corpus import num_tasks
from data_pipeline.execute.counts import Counts, merged
from data_pipeline.execute.documents import source_name
from data_pipeline.execute.job import Job, work_folder
from data_pipeline.execute.split import set_names
from data_pipeline.execute.stages.scan import source_files
from data_pipeline.execute.stages.shards import collect, shard_tasks
from data_pipeline.execute.stages.tokenizer import FOLDER
from data_pipeline.execute.timings import Timings
from data_pipeline.files import sync_folder, write_atomically
from data_pipeline.read import shown
from data_pipeline.report import write_report
from data_pipeline.shards.manifest import (
    FileRecord,
    Manifest,
    ShardRecord,
    content_digest,
    dtype_for,
    write_manifest,
)

COUNTS = "counts.json"
RECORDS = (COUNTS, BROKEN)
"""Files beside the shards: what happened to the documents, and the records that could not be read."""


def publish(job: Job, stamp: bytes, stamp_name: str, timings: Timings) -> None:
    """Fill a folder and rename it to `out`, an older one steps aside. May be repeated after a kill at any point."""
    out, new = job.config.out.resolve(), job.root / "new"
    shutil.rmtree(new, ignore_errors=True)  # of a run that was killed here, perhaps with other settings
    new.mkdir()
    collect(job, new)
    shutil.copytree(job.finished("tokenizer")[0].folder / FOLDER, new / "tokenizer")
    counts = counts_of(job)
    for name in set_names(job.config):
        write_manifest(new / name, _manifest(job, name, counts))
    _join_broken(job, new / BROKEN)
    write_atomically(new / COUNTS, json.dumps(counts, indent=1, ensure_ascii=False, sort_keys=True).encode())
    write_atomically(new / stamp_name, stamp)
    write_report(report_path(out), out.name, counts, timings.seconds, {stage.name: stage.doing for stage in job.stages})
    if out.exists():
        shutil.rmtree(job.root / "old", ignore_errors=True)
        out.rename(job.root / "old")
    new.rename(out)
    sync_folder(out.parent)


def report_path(out: Path) -> Path:
    """Where the page about OUT lies: beside it, since it tells times, which differ where the data does not."""
    return out.with_name(out.name + ".report.html")


def restore(out: Path) -> None:
    """Bring back an `out` that had stepped aside when the process was killed."""
    old = work_folder(out) / "old"
    if old.exists() and not out.exists():
        old.rename(out)


def counts_of(job: Job) -> Counts:
    """All that was counted in all stages: the same for the same sources and settings."""
    stages = [stage for stage in ("clean", "tokenize") if job.has(stage)]
    counts = merged(task.result()["counts"] for stage in stages for task in job.finished(stage))
    names = [source_name(job.config, number) for number in range(len(job.config.sources))]
    sources = {name: counts.get("sources", {}).get(name, {}) for name in names}  # also one that held nothing
    wanted = job.config.deduplicate
    near = {"near": wanted.near.model_dump(mode="json")} if wanted and wanted.near else {}
    return {**counts, **near, "sources": sources, "steps": step_names(job.config.clean)}


def _manifest(job: Job, name: str, counts: Counts) -> Manifest:
    tokenizer = job.finished("tokenizer")[0].result()
    shards = [ShardRecord.model_validate(task.result()["shard"]) for task in shard_tasks(job, name)]
    documents = sum(shard.num_documents for shard in shards)
    dtype = dtype_for(tokenizer["vocab_size"])
    fields = {shown(file.path): _fields(job, file.source) for file in source_files(job)}
    first = _fields(job, 0)
    return Manifest(
        dtype=dtype,
        vocab_size=tokenizer["vocab_size"],
        tokenizer_sha256=tokenizer["digest"],
        eos_id=tokenizer["eos_id"],
        num_documents=documents,
        num_tokens=sum(shard.num_tokens for shard in shards),
        num_eos_tokens=documents,
        num_empty_documents=counts.get("empty", {}).get(name, 0),
        text_bytes=counts.get("sets", {}).get(name, {}).get("text_bytes", 0),
        shards=shards,
        sources=_sources(job),
        content_sha256=content_digest(dtype, shards),
        text_field=first[0],
        id_field=first[1],
        source_fields={path: names for path, names in fields.items() if names != first},
    )


def _fields(job: Job, source: int) -> tuple[str, str]:
    settings = job.config.sources[source]
    return settings.text_field, settings.id_field


def _sources(job: Job) -> list[FileRecord]:
    return [FileRecord(name=shown(file.path), size=file.size, sha256=file.sha256) for file in source_files(job)]


def _join_broken(job: Job, out: Path) -> None:
    """Gather the records that could not be read from the tasks that read; no file when there are none."""
    stage = "clean" if job.has("clean") else "tokenize"
    paths = [task.folder / BROKEN for task in job.finished(stage)[: num_tasks(job)]]
    paths = [path for path in paths if path.exists() and path.stat().st_size]
    if not paths:
        return
    with out.open("wb") as joined:
        for path in paths:
            with path.open("rb") as part:
                shutil.copyfileobj(part, joined)
        joined.flush()
        os.fsync(joined.fileno())
