"""`data prepare` under SIGKILL: what it leaves in the end is byte for byte what an undisturbed run leaves.

The whole test, twenty kills: pytest -m slow tests/chaos/test_killed_preparing.py
"""

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONFIG = """
out: {out}
sources:
  - {{kind: files, name: plain, files: ["{corpus}/*.jsonl"]}}
  - {{kind: files, name: packed, files: ["{corpus}/*.zst"], language: zh}}
clean: [{{step: whitespace}}]
deduplicate: {{near: {{}}}}
tokenizer: {{kind: train, vocab_size: 400}}
validation_fraction: 0.1
tokens_per_shard: 300000
execution: {{workers: {workers}, bytes_per_task: 200000}}
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample corpus, part of it twice, one file compressed, one record broken."""
    import zstandard

    folder = tmp_path_factory.mktemp("corpus")
    sample = ROOT / "data_pipeline/sample"
    english, chinese = ((sample / name).read_bytes() for name in ("en.jsonl", "zh.jsonl"))
    rows = [json.loads(line) for line in english.splitlines()[:40]]
    again = [{**row, "id": f"again-{row['id']}", "text": row["text"] + " The end."} for row in rows]
    (folder / "en.jsonl").write_bytes(english + b'{"text": 3}\n')
    (folder / "more.jsonl").write_text("".join(json.dumps(row) + "\n" for row in again))
    (folder / "zh.jsonl.zst").write_bytes(zstandard.compress(chinese))
    return folder


def command(folder: Path, corpus: Path, workers: int) -> list[str]:
    file = folder / "data.yaml"
    file.write_text(CONFIG.format(out=folder / "out", corpus=corpus, workers=workers))
    return [sys.executable, "-m", "launcher", "data", "prepare", str(file)]


def digests(folder: Path) -> dict[str, str]:
    files = [path for path in (folder / "out").rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.fixture(scope="module")
def undisturbed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, str], float]:
    """The digests of a run of its own with one worker, and the seconds that two workers need."""
    for workers in (1, 2):
        folder = tmp_path_factory.mktemp(f"undisturbed{workers}")
        start = time.monotonic()
        subprocess.run(command(folder, corpus, workers), check=True, cwd=ROOT, capture_output=True)
        seconds = time.monotonic() - start
        found = digests(folder)
        if workers == 1:
            alone = found
    assert found == alone and len(found) > 12 and any(name.endswith("broken.jsonl") for name in found)
    assert json.loads((folder / "out/counts.json").read_text())["duplicates"]["plain"]["near"] > 20
    return found, seconds


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_change_no_byte(
    kills: int, corpus: Path, undisturbed: tuple[dict[str, str], float], tmp_path: Path
):
    expected, seconds = undisturbed
    draw = random.Random(kills)
    run = command(tmp_path, corpus, 2)
    killed = 0
    while killed < kills:
        process = subprocess.Popen(run, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(draw.uniform(0.3, 0.9) * seconds)
        victims = [process.pid, *_children(process.pid)]
        with contextlib.suppress(ProcessLookupError):
            os.kill(draw.choice(victims), signal.SIGKILL)
            killed += 1
        process.wait()
        if process.returncode == 0:
            assert digests(tmp_path) == expected
            shutil.rmtree(tmp_path / "out")
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path) == expected
    assert not (tmp_path / "out.work").exists()


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def test_a_vanished_worker_is_one_sentence(corpus: Path, undisturbed: tuple[dict[str, str], float], tmp_path: Path):
    process = subprocess.Popen(command(tmp_path, corpus, 2), cwd=ROOT, stderr=subprocess.PIPE, text=True)
    while not (children := _children(process.pid)) and process.poll() is None:
        time.sleep(0.01)
    os.kill(children[-1], signal.SIGKILL)
    _, stderr = process.communicate()
    assert process.returncode == 2
    assert "a worker process was killed by signal 9 (SIGKILL) during task" in stderr and "Traceback" not in stderr
    subprocess.run(command(tmp_path, corpus, 2), cwd=ROOT, check=True, capture_output=True)
    assert digests(tmp_path) == undisturbed[0]
