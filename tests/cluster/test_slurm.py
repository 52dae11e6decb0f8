"""`data prepare --cluster`: a real Slurm does the work of the local driver, byte for byte, and is gone on with."""

import contextlib
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.cluster.conftest import contents, prepare, write_config

SECONDS = 60.0


@pytest.fixture
def slurm_file(tmp_path: Path) -> str:
    path = tmp_path / "slurm.yaml"
    path.write_text("kind: slurm\ndata: {workers: 3, memory: 500M, time: 5}\n")
    return str(path)


def status(config: Path, slurm_file: str, environment: dict[str, str]) -> dict[str, dict]:
    told = json.loads(prepare(config, "--cluster", slurm_file, "--status", "--json", environment=environment))
    return {stage["stage"]: stage for stage in told["stages"]}


def queue(environment: dict[str, str], *jobs: str) -> str:
    """What squeue says of some jobs; nothing once they are over."""
    command = ["squeue", "--noheader", *([f"--jobs={','.join(jobs)}"] if jobs else [])]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout


def until(reached, what: str) -> None:
    end = time.monotonic() + SECONDS
    while not reached():
        assert time.monotonic() < end, f"{what} did not happen within {SECONDS} seconds"
        time.sleep(0.02)


def process(*last: str) -> int:
    """The one whose command line ends with these words."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_text().split("\0")[:-1][-len(last) :] == list(last):
                return int(path.parent.name)
    raise AssertionError(f"no process {last}")


def test_an_array_gives_the_bytes_of_the_local_driver(corpus: Path, tmp_path: Path, cluster: dict[str, str]):
    """In folders whose names sbatch could misread; two tasks at once in each element; then there is nothing to do."""
    here, there = tmp_path / "here", tmp_path / 'a "b" 100%A'
    for folder in (here, there):
        folder.mkdir()
        (folder / "slurm.yaml").write_text("kind: slurm\nsetup: [touch was_set_up]\ndata: {workers: 2, cpus: 2}\n")
    prepare(write_config(corpus, here))
    config = write_config(corpus, there)
    said = prepare(config, "--cluster", "slurm.yaml", "--dry-run", environment=cluster)
    assert f"sbatch --parsable '{there}/out.slurm/01-scan.sh'\n" in said
    said = prepare(config, "--cluster", "slurm.yaml", "--wait", environment=cluster)
    assert "scan " in said and "publish " in said and "is ready; tokenizer:" in said
    assert contents(there / "out") == contents(here / "out") and len(contents(here / "out")) > 10
    assert not (there / "out.work").exists() and (there / "out.report.html").exists()
    assert (there / "was_set_up").exists() and len(list((there / "out.slurm").glob("tokenize-*_*.log"))) == 2
    for argument in ("--status", "--json"):
        said = prepare(config, "--cluster", "slurm.yaml", argument, environment=cluster)
        assert "is up to date" in said or said == "[]\n"
    assert queue(cluster) == ""


STEPS = """
import time
from pathlib import Path

def step(document):
    while Path("hold").exists() and document.source.endswith("1.jsonl"):
        time.sleep(0.05)
    if Path("wrong").exists():
        raise RuntimeError("something is wrong")
    return True
"""


def test_what_was_killed_or_failed_is_told_and_done_by_the_next_command(
    corpus: Path, tmp_path: Path, cluster: dict[str, str], slurm_file: str
):
    """An element killed inside a task; then a step that fails; each ends the jobs behind it. Then all goes well."""
    changes = {"deduplicate": None, "clean": [{"step": "function", "function": "steps.py:step"}]}
    here, out, work = tmp_path / "here", tmp_path / "out", tmp_path / "out.work"
    here.mkdir()
    for folder in (here, tmp_path):
        (folder / "steps.py").write_text(STEPS)
    prepare(write_config(corpus, here, **changes))
    config, wait = write_config(corpus, tmp_path, **changes), ["--cluster", slurm_file, "--wait"]

    (tmp_path / "hold").touch()
    jobs = json.loads(prepare(config, "--cluster", slurm_file, "--json", environment=cluster))
    assert [job["stage"] for job in jobs] == ["scan", "clean", "tokenizer", "tokenize", "shards", "publish"]
    for arguments in (["--cluster", slurm_file], []):
        assert "scancel" in prepare(config, *arguments, environment=cluster, code=2)
    # Element 1 of 3 has the tasks 1, in which it is held, and 4; the others do theirs.
    until(lambda: len(list(work.glob("clean/*/result.json"))) == 3 and list(work.glob("clean/000001-*.partial")), "it")
    os.kill(process(str(work), "work", "clean", "1", "3", "1"), signal.SIGKILL)
    (tmp_path / "hold").unlink()
    until(lambda: not queue(cluster, *(job["job"] for job in jobs)), "the end of the jobs")
    stages = status(config, slurm_file, cluster)
    assert (stages["clean"]["done"], stages["clean"]["tasks"]) == (3, 5) and stages["tokenizer"]["done"] is None
    assert "_1.log" in stages["clean"]["error"]
    assert not list((tmp_path / "out.slurm").glob("tokenizer-*.log")) and not out.exists()

    (tmp_path / "wrong").touch()
    said = prepare(config, *wait, environment=cluster, code=2)
    assert said.splitlines()[0].startswith("Submitted") and "clean" in said.splitlines()[0] and "scan" not in said
    assert "--array=0-1\n" in (tmp_path / "out.slurm/01-clean.sh").read_text()
    assert "failed on document" in said and "something is wrong" in said and ".log: error:" in said
    told = prepare(config, *wait[:2], "--status", environment=cluster)
    assert "something is wrong" in told and not list((tmp_path / "out.slurm").glob("tokenizer-*.log"))

    (tmp_path / "wrong").unlink()
    prepare(config, *wait, environment=cluster)
    assert contents(out) == contents(here / "out") and len(contents(out)) > 10
    job = json.loads((tmp_path / "out.slurm/jobs.json").read_text())[0]["job"]
    logs = [log.read_text() for log in (tmp_path / "out.slurm").glob(f"clean-{job}_*.log")]
    shares = ["cleaning, 1 tasks: ended well" in log for log in logs]
    assert shares == [True, True], "equal shares of what was missing"


def test_when_sbatch_refuses_nothing_is_left_in_the_queue(
    corpus: Path, tmp_path: Path, cluster: dict[str, str], slurm_file: str
):
    Path(slurm_file).write_text("kind: slurm\ndata: {partition: nowhere}\n")
    said = prepare(write_config(corpus, tmp_path), "--cluster", slurm_file, environment=cluster, code=2)
    assert "sbatch failed" in said and "partition" in said
    assert queue(cluster) == ""


def test_a_dry_run_writes_nothing_and_needs_no_slurm(corpus: Path, tmp_path: Path, slurm_file: str):
    config = write_config(corpus, tmp_path)
    Path(slurm_file).write_text(
        yaml.safe_dump(
            {
                "kind": "slurm",
                "account": "mine",
                "setup": ["module load x"],
                "data": {"partition": "big", "time": "1-12", "workers": 7, "options": ["--constraint=a&b"]},
            }
        )
    )
    before = contents(tmp_path)
    environment = {**os.environ, "PATH": "/nowhere"}
    said = prepare(config, "--cluster", slurm_file, "--dry-run", environment=environment)
    for line in (
        "account=mine",
        "partition=big",
        "time=1-12",
        "array=0-6",
        "constraint=a&b",
        "kill-on-invalid-dep=yes",
    ):
        assert f"#SBATCH --{line}\n" in said
    assert f"# {tmp_path}/out.slurm/01-scan.sh\n" in said and "\nmodule load x\n" in said
    assert said.count("#!/bin/bash") == 10
    shown = json.loads(prepare(config, "--cluster", slurm_file, "--dry-run", "--json", environment=environment))
    assert [script["stage"] for script in shown][-2:] == ["shards", "publish"] and shown[0]["text"] in said
    assert contents(tmp_path) == before
    assert "sbatch is not found" in prepare(config, "--cluster", slurm_file, environment=environment, code=2)
    (tmp_path / "out.slurm/jobs.json").write_text('[{"stage": "scan", "job": "7", "script": ""}]')
    assert "jobs.json; remove that if they are over" in prepare(config, environment=environment, code=2)
    assert "goes with --cluster" in prepare(config, "--wait", code=2)
