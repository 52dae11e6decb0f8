"""`execution.driver: ray`: the bytes of the local driver, from a Ray of our own and from a cluster; killed workers."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from data_pipeline.execute.drivers.on_ray import _uninterrupted
from tests.cluster.conftest import ROOT, contents, prepare, write_config

pytest.importorskip("ray")
EXECUTION = {"driver": "ray", "workers": 2, "bytes_per_task": 1}


def children(parent: int) -> dict[int, str]:
    """Process ids and command lines of all that a process started."""
    found, parents = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    todo = [parent]
    while todo:
        one = todo.pop()
        for child in [child for child, above in parents.items() if above == one]:
            with contextlib.suppress(OSError):
                found[child] = (Path("/proc") / str(child) / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            todo.append(child)
    return found


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


STEPS = """
import time
from pathlib import Path

def step(document):
    while Path("hold").exists() and document.source.endswith("1.jsonl"):
        time.sleep(0.05)
    return True
"""


def test_ray_gives_the_bytes_of_the_local_driver_though_a_worker_is_killed(corpus: Path, tmp_path: Path):
    """Near duplicates too. Nothing is left running, nothing is left in the temporary folder or at home."""
    here, there = tmp_path / "here", tmp_path / "there"
    changes = {"clean": [{"step": "function", "function": "steps.py:step"}]}
    for folder in (here, there, tmp_path / "home"):
        folder.mkdir()
        (folder / "steps.py").write_text(STEPS)
    prepare(write_config(corpus, here, **changes))
    config = write_config(corpus, there, execution=EXECUTION, **changes)
    (there / "hold").touch()
    places = {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, "-m", "launcher", "data", "prepare", str(config), "--json"],
        cwd=there,
        env={**os.environ, **places},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    seen, killed, end = {}, 0, time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        seen |= children(process.pid)
        working = [one for one, line in children(process.pid).items() if line.startswith("ray::_do")]
        if working and not killed and list(there.glob("out.work/clean/*/result.json")):
            time.sleep(1)  # only the one that is held is at work now
            killed = next(one for one, line in children(process.pid).items() if line.startswith("ray::_do"))
            os.kill(killed, signal.SIGKILL)
            (there / "hold").unlink()
        time.sleep(0.05)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0 and killed, err
    assert "A worker died" in err and out.startswith("{"), "only JSON on stdout"
    assert contents(there / "out") == contents(here / "out") and len(contents(here / "out")) > 10
    assert [one for one in seen if alive(one)] == [] and len(seen) > 4
    sessions = set(re.findall(r"/\S*/mm-ray-\w+", " ".join(seen.values())))
    assert sessions and not any(Path(session).exists() for session in sessions)
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["steps.py"]


def test_ctrl_c_waits_until_ray_has_started():
    """Ray that is interrupted while it connects ends the process by a segmentation fault, at some of the moments."""
    started, before = False, signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background
    try:
        with pytest.raises(KeyboardInterrupt), _uninterrupted():
            signal.raise_signal(signal.SIGINT)
            started = True
        assert started and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.fixture
def ray_cluster() -> Iterator[str]:
    """The address of a Ray cluster that somebody else started."""
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--port=0", "--num-cpus=2"]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        process = subprocess.Popen(
            [*command, "--include-dashboard=false", f"--temp-dir={folder}", "--object-store-memory=80000000"],
            env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        said = ""
        while not (found := re.search(r"--address='([^']+)'", said)):
            line = process.stdout.readline()
            assert line, said
            said += line
        threading.Thread(target=process.stdout.read, daemon=True).start()
        started = children(process.pid)
        yield found[1]
        process.terminate()
        process.wait(30)
        for left in filter(alive, started):
            os.kill(left, signal.SIGKILL)


@pytest.mark.slow
def test_a_cluster_that_is_there(corpus: Path, tmp_path: Path, ray_cluster: str):
    """Used, and left as it was; as many tasks at once as it has cores. `pytest -m slow tests/cluster`."""
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        folder.mkdir()
    prepare(write_config(corpus, here, deduplicate=None))
    execution = {"driver": "ray", "ray_address": ray_cluster, "bytes_per_task": 1}
    said = prepare(write_config(corpus, there, deduplicate=None, execution=execution))
    assert contents(there / "out") == contents(here / "out") and "is ready" in said
    prepare(write_config(corpus, there, deduplicate=None, execution=execution), "--force")


def test_no_cluster_is_a_sentence(corpus: Path, tmp_path: Path):
    config = write_config(corpus, tmp_path, execution={"driver": "ray", "ray_address": "127.0.0.1:9"})
    said = prepare(config, code=2)
    assert "Ray at 127.0.0.1:9 cannot be reached" in said


def test_a_missing_ray_names_the_extra(corpus: Path, tmp_path: Path):
    """An interpreter whose path hides ray, as if it had never been installed."""
    config = write_config(corpus, tmp_path, execution={"driver": "ray"})
    code = "import sys; sys.modules['ray'] = None; from launcher.cli.main import main; main()"
    command = [sys.executable, "-c", code, "data", "prepare", str(config)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "pip install 'megamodel[ray]'" in done.stderr
