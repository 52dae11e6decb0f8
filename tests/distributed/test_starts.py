"""The ways a run starts: our command, torchrun and deepspeed, on one node and as two, are the same training."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, metrics_of

TORCHRUN = [sys.executable, "-m", "torch.distributed.run"]
DEEPSPEED = [sys.executable, "-m", "deepspeed.launcher.runner", "--quiet"]


def _free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


def _finish(home: Path, *commands: list[str], code: int = 0) -> str:
    """Run commands beside each other to their end, in an empty home folder; return what they said."""
    home.mkdir(exist_ok=True)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": str(home)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    processes = [subprocess.Popen(command, cwd=ROOT, env=environment, **streams) for command in commands]
    outputs = [process.communicate(timeout=240)[0] for process in processes]
    assert [process.returncode for process in processes] == [code] * len(processes), "\n".join(outputs)
    return "\n".join(outputs)


def _two_nodes_of_torchrun(*training: str) -> list[list[str]]:
    nodes = ["--nnodes", "2", "--nproc-per-node", "2", "--master-addr", "127.0.0.1", "--master-port", _free_port()]
    return [[*TORCHRUN, *nodes, "--node-rank", str(node), "-m", "launcher.train", *training] for node in range(2)]


def _nodes_of_deepspeed(hostfile: Path, nodes: int, *training: str) -> list[list[str]]:
    hostfile.write_text("".join(f"node-{node} slots=2\n" for node in range(nodes)))
    # As on a cluster without ssh between its nodes, where the command is given on each.
    meeting = ["--hostfile", str(hostfile), "--no_ssh", "--master_addr", "127.0.0.1", "--master_port", _free_port()]
    return [
        [*DEEPSPEED, *meeting, "--node_rank", str(node), "--module", "launcher.train", *training]
        for node in range(nodes)
    ]


@pytest.mark.parametrize("engine", ["deepspeed", pytest.param("fsdp", marks=pytest.mark.slow)])
def test_every_start_is_the_same_training(tiny_run, tmp_path, engine):
    config = str(
        tiny_run(
            engine={"name": engine, "ranks": 4},
            train={"steps": 4, "validate_every_steps": 4},
            checkpoint={"every_steps": 4},
        )
    )
    home = tmp_path / "home"
    _finish(home, [sys.executable, "-m", "launcher", "train", config])
    _finish(home, *_two_nodes_of_torchrun(config, f"run_dir={tmp_path / 'torchrun'}"))
    _finish(home, *_nodes_of_deepspeed(tmp_path / "hosts", 2, config, f"run_dir={tmp_path / 'deepspeed'}"))
    essence = [
        [(line["step"], line["loss"], line["grad_norm"], line["samples_digest"]) for line in metrics_of(tmp_path / run)]
        for run in ("run", "torchrun", "deepspeed")
    ]
    assert len(essence[0]) == 4 and essence[0] == essence[1] == essence[2]
    assert not list(home.iterdir()), "nothing is written beside the run"


def test_a_mistake_is_told_once_and_ends_deepspeed_with_our_exit_code(tiny_run, tmp_path):
    config = str(tiny_run(engine={"name": "deepspeed"}))
    output = _finish(tmp_path / "home", *_nodes_of_deepspeed(tmp_path / "hosts", 1, config, "train.setps=3"), code=2)
    assert output.count("did you mean train.steps") == 1 and "Traceback" not in output
