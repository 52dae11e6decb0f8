"""Two processes and one task: on one machine, on two, and when one was thought dead."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import orjson
import pytest

from data_pipeline.errors import DataError
from data_pipeline.execute import claim, job
from data_pipeline.execute.claim import locked
from data_pipeline.execute.job import NotDone, patiently
from data_pipeline.execute.task import Task, TaskFolder, working_on

ELSEWHERE = "another machine"


def task(root: Path) -> Task:
    (root / "stage").mkdir(exist_ok=True)
    return Task("stage", 0, root, {})


def begun(root: Path, machine: str | None) -> TaskFolder:
    """Four bytes recorded and three more written, by a process that is still there, on this machine or another."""
    folder = TaskFolder(task(root))
    folder.file("data").write(b"done")
    folder.record({"at": 4})
    if machine:
        progress = folder.path / "progress.json"
        progress.write_bytes(orjson.dumps({**orjson.loads(progress.read_bytes()), "machine": machine}))
    folder.file("data").write(b"mor")
    folder.file("data").flush()
    return folder


@pytest.mark.parametrize("machine", [None, ELSEWHERE])
def test_a_task_is_gone_on_with_from_the_record(tmp_path: Path, machine: str | None):
    before = begun(tmp_path, machine)
    inode = (before.path / "data").stat().st_ino
    with working_on(task(tmp_path)) as folder:
        assert folder.state == {"at": 4} and not before.path.exists()
        assert (folder.path / "data").read_bytes() == b"done"
        assert ((folder.path / "data").stat().st_ino == inode) == (machine is None), "a copy only if it may be written"
        folder.file("data").write(b" well")
        folder.finish({"rows": 1})
    assert (task(tmp_path).folder / "data").read_bytes() == b"done well" and task(tmp_path).result()["rows"] == 1
    assert [path.name for path in (tmp_path / "stage").iterdir()] == [task(tmp_path).folder.name]


def test_whoever_was_thought_dead_harms_nothing(tmp_path: Path):
    """It writes, records and finishes after another machine took over: into nothing."""
    zombie = begun(tmp_path, ELSEWHERE)
    with working_on(task(tmp_path)) as folder:
        zombie.file("data").write(b"e and wrong")
        with pytest.raises(DataError, match="cannot write"):
            zombie.record({"at": 99})
        zombie.path.mkdir()
        with pytest.raises(OSError):
            zombie.finish({"rows": 666})
        folder.file("data").write(b" well")
        folder.record({"at": 9})
        folder.finish({"rows": 1})
    assert (task(tmp_path).folder / "data").read_bytes() == b"done well" and task(tmp_path).result()["rows"] == 1


def test_the_faster_one_wins(tmp_path: Path):
    """Both finish; where the file system's locks do not reach from one machine to another."""
    slow = TaskFolder(task(tmp_path))
    slow.path = slow.path.rename(tmp_path / "stage/unseen")
    with working_on(task(tmp_path)) as fast:
        fast.finish({"rows": 1})
    slow.finish({"rows": 1})
    assert task(tmp_path).done and not slow.path.exists()


def test_a_lock_is_waited_for_and_its_file_is_the_one_of_that_name(tmp_path: Path):
    folder = tmp_path / "stage/x"
    order: list[str] = []

    def second() -> None:
        with locked(folder):
            order.append("second")

    with locked(folder):
        waiting = threading.Thread(target=second)
        waiting.start()
        time.sleep(0.3)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"] and not list((tmp_path / "stage").iterdir())
    with (tmp_path / "x.lock").open("a") as file:
        (tmp_path / "x.lock").unlink()
        assert not claim._lock(file.fileno(), tmp_path / "x.lock"), "the next one would lock a new file of that name"


HOLDER = "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True)"


def test_the_lock_of_a_killed_process_is_free_and_that_of_a_living_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(claim, "_LOCK_SECONDS", 0.3)
    command = [sys.executable, "-c", f"{HOLDER}; time.sleep(60)", str(tmp_path / "x.lock")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE)
    process.stdout.readline()
    with pytest.raises(DataError, match="another process is at work on"), locked(tmp_path / "x"):
        pass
    process.kill()
    process.wait()
    with locked(tmp_path / "x"):
        pass


def test_what_another_machine_finished_may_be_seen_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []

    def ask() -> str:
        asked.append(1)
        if len(asked) < 2:
            raise NotDone("1 of 2 tasks are not done")
        return "seen"

    assert patiently(ask) == "seen"
    monkeypatch.setattr(job, "_SECONDS_TO_SEE", -1.0)
    asked.clear()
    with pytest.raises(NotDone):
        patiently(ask)
