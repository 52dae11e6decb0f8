"""Promises 1 and 3 under kills and damage, with real processes and real files."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.conftest import events_of, metrics_of, run_training, start_training
from tests.ranks import train_in_ranks

FSDP = ("engine.name=fsdp", "engine.ranks=2")


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _kill_after(config, run, step: int, *overrides: str, victim: str) -> None:
    """SIGKILL the command or its second rank when the metrics have come to `step`."""
    process = start_training(config, *overrides)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.jsonl").exists() and len(metrics_of(run)) >= step:
            break
        time.sleep(0.01)
    ranks = _children(process.pid)
    assert len(ranks) == 2, process.communicate()[0]
    os.kill(ranks[1] if victim == "rank" else process.pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0
    for rank in ranks:  # none may live on and write into the run
        deadline = time.monotonic() + 20
        while Path(f"/proc/{rank}").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert not Path(f"/proc/{rank}").exists()


@pytest.fixture
def reference(tiny_run, tmp_path):
    train_in_ranks(tiny_run(), FSDP[0], f"run_dir={tmp_path / 'reference'}", ranks=2)
    return metrics_of(tmp_path / "reference")


def _essence(lines):
    return [(line["step"], line["samples_digest"], line["loss"]) for line in lines]


@pytest.mark.parametrize("victim", ["rank", "command"])
def test_killed_ranks_resume_with_the_same_numbers(tiny_run, tmp_path, reference, victim):
    run = tmp_path / "run"
    _kill_after(tiny_run(), run, 8, *FSDP, victim=victim)
    run_training(tiny_run(), *FSDP)
    assert _essence(metrics_of(run)) == _essence(reference)
    assert events_of(run, "resumed")[0]["step"] in (5, 10, 15)


def test_damaged_checkpoints_are_passed_over(tiny_run, tmp_path, reference):
    run = tmp_path / "run"
    train_in_ranks(tiny_run(), FSDP[0], "train.stop_at_step=15", ranks=2)
    newest, middle, _ = sorted((run / "checkpoints").iterdir(), reverse=True)
    flipped = newest / "rank_00001.safetensors"
    content = bytearray(flipped.read_bytes())
    content[len(content) // 2] ^= 0x10
    flipped.write_bytes(content)
    truncated = middle / "rank_00000.safetensors"
    truncated.write_bytes(truncated.read_bytes()[:-100])
    (run / "metrics.jsonl").open("a").write('{"step": 16, "lo')  # a line cut by a kill
    train_in_ranks(tiny_run(), FSDP[0], ranks=2)
    assert events_of(run, "resumed")[0]["step"] == 5
    found = events_of(run, "checkpoint_quarantined")
    assert "at least one bit has changed" in found[0]["faults"][0]
    assert "was truncated" in found[1]["faults"][0]
    assert _essence(metrics_of(run)) == _essence(reference)
    assert (run / "checkpoints" / "step_00000015.bad1").is_dir()


def test_resume_in_another_layout(tiny_run, tmp_path, reference):
    config = tiny_run()
    train_in_ranks(config, FSDP[0], "train.stop_at_step=5", ranks=2)
    train_in_ranks(config, "train.stop_at_step=10")
    train_in_ranks(config, "engine.name=ddp", "train.stop_at_step=15", ranks=2)
    train_in_ranks(config, "engine.name=fsdp", ranks=4)
    for ours, theirs in zip(metrics_of(tmp_path / "run"), reference, strict=True):
        assert ours["samples_digest"] == theirs["samples_digest"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5)


def test_sigterm_saves_and_ends_well(tiny_run, tmp_path, reference):
    run = tmp_path / "run"
    process = start_training(tiny_run(), *FSDP)
    while not (run / "metrics.jsonl").exists() or len(metrics_of(run)) < 2:
        time.sleep(0.01)
    for pid in (process.pid, *_children(process.pid)):  # as a scheduler does: to every process
        os.kill(pid, signal.SIGTERM)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 0, output
    stopped = events_of(run, "stopped")
    if stopped:  # else it was done before the signal came
        assert events_of(run, "saved")[-1]["step"] == stopped[0]["step"]
    train_in_ranks(tiny_run(), FSDP[0], ranks=2)
    assert _essence(metrics_of(run)) == _essence(reference)


def test_another_data_order_or_model_is_refused(tiny_run, tmp_path):
    train_in_ranks(tiny_run(), "train.stop_at_step=5")
    for override, name in (
        ("train.global_batch_size=4", "train.global_batch_size"),
        ("seed=8", "seed"),
        ("model.rope_theta=10000", "model.rope_theta"),
    ):
        output = train_in_ranks(tiny_run(), override, code=2)
        assert f"{name} was" in output
        assert "Traceback" not in output
    before = metrics_of(tmp_path / "run")
    assert [line["step"] for line in before] == [1, 2, 3, 4, 5]


def test_two_processes_in_one_run_folder_are_refused(tiny_run, tmp_path):
    first = start_training(tiny_run(), "train.steps=100000")
    while not (tmp_path / "run" / "metrics.jsonl").exists():
        time.sleep(0.01)
    output = train_in_ranks(tiny_run(), code=2)
    assert "is training in this run folder" in output
    first.kill()
    first.communicate()


def test_an_imported_run_without_a_good_checkpoint_is_not_begun_from_random_weights(tiny_run, tmp_path):
    config = tiny_run()
    run_training(config, "train.stop_at_step=5")
    run = tmp_path / "run"
    with (run / "events.jsonl").open("a") as events:
        events.write('{"event": "imported", "source": "elsewhere", "kind": "DeepSpeed ZeRO-2", "step": 5}\n')
    (weights,) = (run / "checkpoints" / "step_00000005").glob("*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for _ in range(2):  # the second time nothing is left to be found bad
        assert "no good checkpoint is left of this imported run" in run_training(config, code=2)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step_00000005.bad1"]
