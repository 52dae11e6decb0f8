"""SIGKILL in the middle of a save, in every engine: only the steps after the newest verified checkpoint are lost."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from megamodel.checkpoint import list_checkpoints, verify_checkpoint
from tests.conftest import LLAMA, events_of, metrics_of
from tests.ranks import train_in_ranks, training_ranks

ENGINES = {
    "single": (1, []),
    "ddp x 2": (2, ["engine.name=ddp"]),
    "fsdp x 2": (2, ["engine.name=fsdp"]),
    "zero1 x 2": (2, ["engine.name=deepspeed", "engine.zero_stage=1"]),
    "zero2 x 2": (2, ["engine.name=deepspeed", "engine.zero_stage=2"]),
    "zero3 x 2": (2, ["engine.name=deepspeed", "engine.zero_stage=3"]),
}
STEPS = 10
CUTS = 2
"""Kills that must come before a commit."""
SLOW_TO_SAVE = {**LLAMA, "hidden_size": 256, "intermediate_size": 704}
"""20 MB of state: the writing takes long enough to be hit."""


def _essence(run: Path) -> list[tuple[int, str, float]]:
    return [(line["step"], line["samples_digest"], line["loss"]) for line in metrics_of(run)]


def _being_written(run: Path) -> set[Path]:
    return set(run.glob("checkpoints/*.writing-*"))


def _kill_in_a_save(config: Path, run: Path, chance: random.Random, ranks: int, overrides: list[str]) -> bool:
    """Train on, and SIGKILL all ranks in the first save; True when that came before the commit."""
    before = _being_written(run)
    with training_ranks(config, *overrides, ranks=ranks) as (processes, output):
        deadline = time.monotonic() + 120
        while not (new := _being_written(run) - before):
            assert time.monotonic() < deadline and processes[0].exitcode is None, output.read_text()
            time.sleep(0.0005)
        time.sleep(chance.random() * 0.015)
        for process in chance.sample(processes, len(processes)):
            os.kill(process.pid, signal.SIGKILL)
    return any(path.exists() for path in new)


@pytest.mark.parametrize("engine", ENGINES)
def test_killed_while_saving(tiny_run, tmp_path, engine):
    ranks, overrides = ENGINES[engine]
    run, reference = tmp_path / "run", tmp_path / "reference"
    config = tiny_run(model=SLOW_TO_SAVE, train={"steps": STEPS}, checkpoint={"every_steps": 1, "keep": STEPS})
    train_in_ranks(config, *overrides, f"run_dir={reference}", ranks=ranks)
    train_in_ranks(config, *overrides, "train.stop_at_step=1", ranks=ranks)
    chance, cut, newest = random.Random(engine), 0, []
    while cut < CUTS:
        cut += _kill_in_a_save(config, run, chance, ranks, overrides)
        committed = list_checkpoints(run / "checkpoints")
        assert all(verify_checkpoint(path) == [] for _, path in committed)
        newest.append(committed[-1][0])
        assert newest[-1] < STEPS, "every kill came after the commit: this shows nothing"
    train_in_ranks(config, *overrides, ranks=ranks)
    assert [event["step"] for event in events_of(run, "resumed")] == [1, *newest]
    assert not events_of(run, "checkpoint_quarantined")
    assert len(events_of(run, "leftover_removed")) >= cut
    assert _essence(run) == _essence(reference)
