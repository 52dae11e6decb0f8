"""The stages of a preparation: gone on with inside a task, divided in any way, stopped by the disk or the sources."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.config import PrepareConfig
from data_pipeline.errors import DataError
from data_pipeline.execute import prepare
from data_pipeline.execute import task as task_module
from data_pipeline.execute.counts import merged
from data_pipeline.execute.job import Job
from data_pipeline.execute.stages import shards as shards_module
from data_pipeline.execute.stages.shards import Part, divided
from data_pipeline.execute.worker import run_task
from data_pipeline.shards import ShardSet, verify
from tests.data_pipeline.conftest import sample_rows, write_jsonl
from tests.data_pipeline.test_prepare import contents


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """6 MB in one file: several batches, with near duplicates and a broken record."""
    rows = sample_rows("en.jsonl", 300) + sample_rows("zh.jsonl", 100)
    copies = [
        {**row, "id": f"{n}-{row['id']}", "text": f"Copy {n} of it. " * (n + 1) + row["text"] * 2}
        for n in range(4)
        for row in rows
    ]
    path = write_jsonl(tmp_path_factory.mktemp("large") / "large.jsonl", copies)
    with path.open("a") as file:
        file.write("{broken\n")
    return path


def config(corpus: Path, out: Path, **changes) -> PrepareConfig:
    settings = {
        "out": out,
        "sources": [{"kind": "files", "files": [str(corpus)]}],
        "deduplicate": {"near": {}},
        "tokenizer": {"kind": "train", "vocab_size": 300, "model_max_length": 100},
        "validation_fraction": 0.1,
        "execution": {"workers": 1, "bytes_per_task": 2**30},
    }
    return PrepareConfig.model_validate({**settings, **changes})


class Stopped(Exception):
    """Stands for a kill."""


class StopsAfter:
    """Tells a task's progress to nobody, and stops it once."""

    def __init__(self, size: int) -> None:
        self.left = size

    def __call__(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise Stopped


def records(folder: Path) -> Iterator[dict]:
    for path in folder.glob("*/*.partial/progress.json"):
        yield json.loads(path.read_bytes())


def test_a_stopped_task_goes_on_from_its_last_record(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Stopped three times inside each long stage; what was recorded is not done again, and the bytes are the same."""
    monkeypatch.setattr(task_module, "_SECONDS_BETWEEN_RECORDS", -1.0)
    prepare(config(large, tmp_path / "whole"))
    job = Job.create(config(large, tmp_path / "out"))
    stops, recorded = 0, set()
    for stage in job.stages:
        for task in job.tasks(stage.name):
            for share in (0.3, 0.6, 0.9) if stage.name in ("clean", "tokenize", "shards") else ():
                before = sum(record["state"].get("done", 0) for record in records(job.root))
                try:
                    run_task(Job.open(job.root), stage.name, task.index, StopsAfter(int(share * task.size)))
                except Stopped:
                    stops += 1
                    state = next(records(job.root), {"state": {}})["state"]
                    assert state.get("done", 0) >= before
                    recorded.add(state.get("done", 0))
                    # Half of what a record holds is written again behind it: a torn end must not stay.
                    for path in job.root.glob("*/*.partial/*.tokens"):
                        with path.open("ab") as file:
                            file.write(b"torn")
            run_task(job, stage.name, task.index)
    assert stops >= 4 and len(recorded) >= 4
    prepare(config(large, tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_torn_record_is_not_believed(large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(task_module, "_SECONDS_BETWEEN_RECORDS", -1.0)
    prepare(config(large, tmp_path / "whole", deduplicate=None))
    job = Job.create(config(large, tmp_path / "out", deduplicate=None))
    for stage in ("scan", "tokenizer"):
        run_task(job, stage, 0)
    with pytest.raises(Stopped):
        run_task(job, "tokenize", 0, StopsAfter(job.tasks("tokenize")[0].size // 2))
    tokens = next(job.root.glob("tokenize/*.partial/train.tokens"))
    os.truncate(tokens, tokens.stat().st_size // 2)
    prepare(config(large, tmp_path / "out", deduplicate=None))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("stored", [True, False])
def test_how_the_work_is_divided_changes_no_byte(
    large: Path, tmp_path: Path, stored: bool, monkeypatch: pytest.MonkeyPatch
):
    found = []
    for number, execution in enumerate(
        [
            {"workers": 1, "bytes_per_task": 2**30},
            {"workers": 2, "bytes_per_task": 700_000, "memory_per_worker": 2**20},
            {"workers": 1, "bytes_per_task": 1},
        ]
    ):
        settings = {"deduplicate": {"near": {}}} if stored else {"deduplicate": None}
        out = tmp_path / str(number)
        prepare(config(large, out, execution=execution, tokens_per_shard=200_000, **settings))
        found.append(contents(out))
        monkeypatch.setattr(shards_module, "_AT_ONCE", 7)
    assert found[0] == found[1] == found[2] and len(found[0]) > 15


def test_an_unfinished_preparation_makes_only_what_changed(large: Path, tmp_path: Path):
    """Another vocabulary is another tokenizer, but the cleaning stays."""
    job = Job.create(config(large, tmp_path / "out"))
    for stage in ("scan", "clean"):
        run_task(job, stage, 0)
    made = job.tasks("clean")[0].folder.stat().st_ino
    changed = Job.create(config(large, tmp_path / "out", tokenizer={"kind": "train", "vocab_size": 400}))
    assert changed.tasks("clean")[0].done and changed.tasks("clean")[0].folder.stat().st_ino == made
    seen = Job.create(config(large, tmp_path / "out", deduplicate={"near": {"bands": 20}}))
    assert not seen.tasks("clean")[0].done


@pytest.mark.parametrize("lost", [None, 0, 3], ids=["gone", "empty", "cut"])
def test_a_finished_task_that_lost_something_is_done_again(
    tmp_path: Path, lost: int | None, capsys: pytest.CaptureFixture[str]
):
    """A file deleted or cut short between two runs: documents went missing, and `verify` found nothing."""
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [*sample_rows("en.jsonl", 40), {"id": "no text"}])
    whole = prepare(config(corpus, tmp_path / "whole"))
    job = Job.create(config(corpus, tmp_path / "out"))
    for stage in job.stages:
        for task in job.tasks(stage.name):
            run_task(job, stage.name, task.index)
    finished = tmp_path / "finished"
    shutil.copytree(job.root, finished)
    for path in sorted(finished.glob("*/0*/**/*")):
        if path.is_dir() or path.stat().st_size <= (lost or 0):
            continue
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        shutil.copytree(finished, job.root, dirs_exist_ok=True)
        harmed = job.root / path.relative_to(finished)
        harmed.unlink()
        if lost is not None:
            harmed.write_bytes(path.read_bytes()[:lost])
        prepare(job.config)
        assert "note: 1 finished tasks are damaged" in capsys.readouterr().err
        assert contents(tmp_path / "out") == contents(whole.out), path


def test_a_full_disk_is_a_sentence_and_the_work_goes_on(large: Path, tmp_path: Path):
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True).returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        with pytest.raises(DataError, match=r"No space left on device.*goes on where it stopped"):
            prepare(config(large, disk / "out"))
        assert not (disk / "out").exists()
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        prepare(config(large, disk / "out"))
        prepare(config(large, tmp_path / "whole"))
        assert contents(disk / "out") == contents(tmp_path / "whole")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_an_unreadable_file_is_a_sentence_and_the_work_goes_on(large: Path, tmp_path: Path):
    shutil.copy(large, tmp_path / "a.jsonl")
    packed = subprocess.run(["gzip", "-c", str(large)], capture_output=True, check=True).stdout
    (tmp_path / "b.jsonl.gz").write_bytes(packed[: len(packed) // 2])
    settings = config(tmp_path / "*.jsonl*", tmp_path / "out", max_broken_records=0, max_broken_fraction=0)
    with pytest.raises(DataError, match=r"a\.jsonl, record"):
        prepare(settings)
    (tmp_path / "a.jsonl").write_bytes(large.read_bytes().removesuffix(b"{broken\n"))
    with pytest.raises(DataError, match=r"b\.jsonl\.gz.*cut short|b\.jsonl\.gz.*damaged"):
        prepare(settings)
    (tmp_path / "b.jsonl.gz").unlink()
    assert not prepare(settings).up_to_date


def test_broken_records_are_kept_aside(large: Path, tmp_path: Path):
    prepare(config(large, tmp_path / "out", deduplicate=None))
    line = json.loads((tmp_path / "out/broken.jsonl").read_text())
    assert line["source"] == str(large) and line["begins"] == "{broken" and line["record"] == 1600 and line["reason"]
    assert large.read_bytes()[line["offset"] :] == b"{broken\n"
    counts = json.loads((tmp_path / "out/counts.json").read_text())
    assert counts["sources"][str(large)]["broken"] == 1


def test_sources_have_fields_of_their_own(tmp_path: Path):
    rows = [{"id": f"a/{n}", "text": f"A text of the first, number {n}."} for n in range(20)]
    write_jsonl(tmp_path / "a.jsonl", rows)
    write_jsonl(tmp_path / "b.jsonl", [{"name": f"b/{n}", "body": f"Another text, number {n}."} for n in range(20)])
    sources = [
        {"kind": "files", "files": [f"{tmp_path}/a.jsonl"]},
        {"kind": "files", "files": [f"{tmp_path}/b.jsonl"], "text_field": "body", "id_field": "name"},
    ]
    prepare(config(tmp_path, tmp_path / "out", sources=sources, deduplicate=None, validation_fraction=0))
    shards = ShardSet.open(tmp_path / "out/train")
    assert shards.find_documents("a/3") == [3] and shards.find_documents("b/4") == [24]
    assert shards.manifest.fields_of(f"{tmp_path}/a.jsonl") == ("text", "id")
    assert shards.manifest.fields_of(f"{tmp_path}/b.jsonl") == ("body", "name")
    assert not verify(tmp_path / "out/train")


def test_a_password_in_a_url_stays_out_of_the_result(tmp_path: Path):
    import fsspec

    with fsspec.open("memory://user:secret@host/corpus/a.jsonl", "wb") as file:
        file.write(b"".join(b'{"id": "m/%d", "text": "Text number %d."}\n' % (n, n) for n in range(30)))
    place = "memory://user:secret@host/corpus/*.jsonl"
    evaluation = {"files": ["memory://user:secret@host/evaluation.txt"]}
    with fsspec.open(evaluation["files"][0], "wb") as file:
        file.write(b"a b c d e f g h")
    for changes in ({"deduplicate": None}, {"decontaminate": evaluation}):
        prepare(config(tmp_path, tmp_path / "out", sources=[{"kind": "files", "files": [place]}], **changes))
        assert ShardSet.open(tmp_path / "out/train").num_documents > 10
        for path in [*(tmp_path / "out").rglob("*"), tmp_path / "out.report.html"]:
            assert path.is_dir() or b"secret" not in path.read_bytes(), path


@pytest.mark.parametrize("changes", [{}, {"deduplicate": None}], ids=["stored", "direct"])
def test_a_file_that_changes_while_it_is_read_is_noticed(large: Path, tmp_path: Path, changes: dict):
    shutil.copy(large, tmp_path / "a.jsonl")
    job = Job.create(config(tmp_path / "a.jsonl", tmp_path / "out", **changes))
    run_task(job, "scan", 0)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"text": "one more"}\n')
    reading = "clean" if job.has("clean") else "tokenizer"
    with pytest.raises(DataError, match=r"a\.jsonl changed while it was read"):
        run_task(job, reading, 0)
    prepare(config(tmp_path / "a.jsonl", tmp_path / "out", **changes))
    counts = json.loads((tmp_path / "out/counts.json").read_text())
    assert counts["sources"][f"{tmp_path}/a.jsonl"]["documents"] == 1601


STEPS = """
import os, sys
def leave(document):
    sys.exit(3)
def die(document):
    os._exit(5)
def talk(document):
    print("hello")
    return document
"""


def run_with_step(tmp_path: Path, name: str, workers: int) -> subprocess.CompletedProcess[str]:
    (tmp_path / "steps.py").write_text(STEPS)
    write_jsonl(tmp_path / "a.jsonl", [{"text": f"Text {n}."} for n in range(9)])
    (tmp_path / "c.yaml").write_text(
        f"out: {tmp_path}/out\nsources: [{{kind: files, files: [{tmp_path}/a.jsonl]}}]\n"
        f"clean: [{{step: function, function: '{tmp_path}/steps.py:{name}'}}]\nvalidation_fraction: 0\n"
        f"tokenizer: {{kind: train, vocab_size: 300}}\nexecution: {{workers: {workers}}}\n"
    )
    command = [sys.executable, "-m", "launcher", "data", "prepare", str(tmp_path / "c.yaml"), "--json"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("name", "workers"), [("leave", 1), ("leave", 2), ("die", 2)])
def test_a_step_that_ends_the_process_is_told(tmp_path: Path, name: str, workers: int):
    done = run_with_step(tmp_path, name, workers)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert ("leave failed on document" if name == "leave" else "ended with code 5 during task 0") in done.stderr


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_step_prints_is_not_in_the_json(tmp_path: Path, workers: int):
    done = run_with_step(tmp_path, "talk", workers)
    assert json.loads(done.stdout) and "hello" in done.stderr


def test_files_that_nobody_reads_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "in").mkdir()
    write_jsonl(tmp_path / "in/a.jsonl", [{"text": f"Text {n}."} for n in range(30)])
    (tmp_path / "in/notes.md").write_text("notes")
    (tmp_path / "in/again.jsonl").symlink_to(tmp_path / "in/a.jsonl")
    (tmp_path / "in/unmounted.jsonl").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to("out")
    done = prepare(config(tmp_path / "in", tmp_path / "link", deduplicate=None))
    told = capsys.readouterr().err
    assert "note: 2 files in the sources' folders have no reader: " in told
    assert "1 .md" in told and "1 links to nothing" in told
    assert done.report.exists()
    assert sum(manifest.num_documents for manifest in done.sets.values()) == 30


def test_a_source_cannot_be_given_twice(large: Path, tmp_path: Path):
    twice = [{"kind": "files", "files": [str(large)]}, {"kind": "files", "files": [str(large.parent)]}]
    with pytest.raises(DataError, match=r"large\.jsonl is in the sources 0 and 1"):
        prepare(config(large, tmp_path / "out", sources=twice))


def test_shards_are_divided_by_tokens_alone():
    lengths = [np.array([3, 3, 3]), np.array([], int), np.array([10, 1]), np.array([2])]
    assert list(divided(lengths, 7)) == [
        [Part(0, 0, 2, 0, 6)],
        [Part(0, 2, 3, 6, 9)],
        [Part(2, 0, 1, 0, 10)],
        [Part(2, 1, 2, 10, 11), Part(3, 0, 1, 0, 2)],
    ]
    assert list(divided([np.array([], int)], 7)) == []


def test_counts_add_up():
    one = {"a": 1, "h": [1, 2], "examples": {"k": [{"id": 1}] * 4}, "deep": {"x": {"y": 2}}}
    other = {"a": 2, "h": [1, 1, 5], "examples": {"k": [{"id": 2}] * 4}, "deep": {"x": {"z": 1}}}
    assert merged([one, other]) == {
        "a": 3,
        "h": [2, 3, 5],
        "examples": {"k": [{"id": 1}] * 4 + [{"id": 2}]},
        "deep": {"x": {"y": 2, "z": 1}},
    }


def test_a_worker_knows_no_work_folder(tmp_path: Path):
    run = [sys.executable, "-m", "data_pipeline.execute.share", str(tmp_path), "work", "scan", "1", "1", "0"]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "is no work folder" in done.stderr and "Traceback" not in done.stderr
