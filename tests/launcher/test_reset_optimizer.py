"""A checkpoint without state for this run's optimizer: refused, or its weights taken with a fresh state, once."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from launcher.config import RunConfig
from launcher.train.schedule import lr_at
from launcher.yaml_config import load
from megamodel.checkpoint import CheckpointWriter, checkpoint_name, load_weights, read_manifest
from megamodel.parallel.shard import Holding
from tests.conftest import events_of, metrics_of
from tests.ranks import train_in_ranks

LAYOUTS = {
    "single": (1, []),
    "fsdp x 2": (2, ["engine.name=fsdp"]),
    "zero1 x 2": (2, ["engine.name=deepspeed", "engine.zero_stage=1"]),
    "zero3 x 2": (2, ["engine.name=deepspeed", "engine.zero_stage=3"]),
}


def _weights_only(checkpoint: Path) -> None:
    """Replace a checkpoint by one of its weights alone, as an import of published weights has them."""
    manifest = read_manifest(checkpoint)
    weights = {f"param/{name}": tensor for name, tensor in load_weights(checkpoint).items()}
    writer = CheckpointWriter(
        checkpoint.parent,
        rank=0,
        world_size=1,
        attempt="import",
        keep=9,
        permanent_every_steps=None,
        optimizer="none",
        model=manifest.model,
        data_order=manifest.data_order,
        shapes={name: tuple(tensor.shape) for name, tensor in weights.items()},
        on_saved=lambda saved: None,
    )
    writer.save(manifest.step, {name: Holding.of(tensor) for name, tensor in weights.items()})
    writer.wait()


def _of_another_kind(checkpoint: Path) -> None:
    """Say of the checkpoint that its moments are those of another optimizer."""
    path = checkpoint / "manifest.json"
    body = json.loads(path.read_text())["manifest"] | {"optimizer": "lamb"}
    digest = hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=32).hexdigest()
    path.write_text(json.dumps({"digest": digest, "manifest": body}))


RESET = "checkpoint.reset_optimizer=true"


@pytest.mark.parametrize(
    ("change", "says"), [(_weights_only, "holds weights only"), (_of_another_kind, "state of the optimizer lamb")]
)
def test_a_state_of_another_kind_is_refused_with_the_choice(tiny_run, tmp_path, change, says):
    config = tiny_run()
    train_in_ranks(config, "train.stop_at_step=5")
    change(tmp_path / "run" / "checkpoints" / checkpoint_name(5))
    for ranks, overrides in ((1, []), (2, ["engine.name=fsdp"])):
        output = train_in_ranks(config, *overrides, ranks=ranks, code=2)
        assert says in output and RESET in output and "Traceback" not in output
    assert len(metrics_of(tmp_path / "run")) == 5
    train_in_ranks(config, RESET, "train.stop_at_step=6")
    assert [event["step"] for event in events_of(tmp_path / "run", "optimizer_reset")] == [5]


@pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=[pytest.mark.slow] if name == "zero1 x 2" else []) for name in LAYOUTS]
)
def test_a_reset_begins_the_moments_and_their_correction_anew_and_happens_once(tiny_run, tmp_path, layout):
    ranks, overrides = LAYOUTS[layout]
    config, run = tiny_run(train={"steps": 10}, checkpoint={"every_steps": 1, "keep": 20}), tmp_path / "run"
    train_in_ranks(config)
    undisturbed = metrics_of(run)
    run = tmp_path / "reset"
    overrides = [*overrides, f"run_dir={run}"]
    train_in_ranks(config, *overrides, "train.stop_at_step=5", ranks=ranks)
    _weights_only(run / "checkpoints" / checkpoint_name(5))
    train_in_ranks(config, *overrides, RESET, "train.stop_at_step=8", ranks=ranks)
    _assert_first_step_of_adam(config, run)
    assert read_manifest(run / "checkpoints" / checkpoint_name(8)).optimizer_updates == 3
    train_in_ranks(config, *overrides, RESET, ranks=ranks)
    assert [event["step"] for event in events_of(run, "optimizer_reset")] == [5]
    assert [line["samples_digest"] for line in metrics_of(run)] == [line["samples_digest"] for line in undisturbed]
    _assert_same_as_without_a_stop(config, run, overrides, ranks)


def _assert_first_step_of_adam(config: Path, run: Path) -> None:
    """With no moments and a count of one, Adam moves each weight by the learning rate, whatever its gradient."""
    before, after = (load_weights(run / "checkpoints" / checkpoint_name(step)) for step in (5, 6))
    lr = lr_at(6, load(config, RunConfig, []).value)
    moved = torch.cat([(after[name] - before[name]).abs() for name in before if "norm" in name]) / lr
    assert moved.median().item() == pytest.approx(1.0, rel=1e-2)


def _assert_same_as_without_a_stop(config: Path, run: Path, overrides: list[str], ranks: int) -> None:
    stopped = metrics_of(run)
    for checkpoint in (run / "checkpoints").iterdir():
        if checkpoint.name > checkpoint_name(5):
            checkpoint.rename(run / f"{checkpoint.name}.first")
    train_in_ranks(config, *overrides, RESET, ranks=ranks)
    for ours, theirs in zip(metrics_of(run), stopped, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6), ours["step"]
