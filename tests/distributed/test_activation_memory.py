"""Activation memory in whole runs: every mode is the same training, and a deterministic run is the same bits."""

import hashlib

import pytest

from tests.conftest import LLAMA, metrics_of
from tests.ranks import train_in_ranks

MODES = {
    "full": ["engine.activation_checkpointing=full"],
    "every 3rd": ["engine.activation_checkpointing=every_nth", "engine.activation_checkpointing_nth=3"],
    "selective": ["engine.activation_checkpointing=selective"],
    "full, offloaded": ["engine.activation_checkpointing=full", "engine.offload_activations=true"],
}
FOUR_BLOCKS = {**LLAMA, "num_hidden_layers": 4}


@pytest.mark.parametrize(
    ("ranks", "layout"),
    [
        (2, ["engine.name=fsdp"]),
        (2, ["engine.name=fsdp", "parallel.tp=2"]),
        (2, ["engine.name=fsdp", "parallel.cp=2"]),
        (2, ["engine.name=fsdp", "parallel.pp=2", "train.micro_batch_size=1"]),
    ],
    ids=["fsdp", "tp", "cp", "pp"],
)
def test_every_mode_is_the_same_training(tiny_run, tmp_path, ranks, layout):
    config = tiny_run(model=FOUR_BLOCKS, train={"steps": 4}, optimizer={"schedule": {"name": "cosine"}})
    train_in_ranks(config, *layout, ranks=ranks)
    reference = [line["loss"] for line in metrics_of(tmp_path / "run")]
    for name, overrides in MODES.items():
        train_in_ranks(config, *layout, *overrides, f"run_dir={tmp_path / name}", ranks=ranks)
        assert [line["loss"] for line in metrics_of(tmp_path / name)] == reference, name


@pytest.mark.parametrize(
    ("ranks", "layout"), [(1, ["engine.name=single"]), (2, ["engine.name=fsdp"])], ids=["single", "fsdp"]
)
def test_deterministic_runs_are_the_same_bits(tiny_run, tmp_path, ranks, layout):
    config = tiny_run(train={"steps": 6}, checkpoint={"every_steps": 3}, engine={"deterministic": True})
    for name in ("one", "two"):
        train_in_ranks(config, *layout, f"run_dir={tmp_path / name}", ranks=ranks)
    one, two = (metrics_of(tmp_path / name) for name in ("one", "two"))
    values = [name for name in one[0] if name in ("loss", "grad_norm", "samples_digest", "lr")]
    assert len(values) == 4 and len(one) == 6
    assert [[line[name] for name in values] for line in one] == [[line[name] for name in values] for line in two]
    assert tensors(tmp_path / "one") == tensors(tmp_path / "two") != {}


def tensors(run):
    """Digests of every tensor file of a run's checkpoints."""
    files = sorted((run / "checkpoints").rglob("*.safetensors"))
    return {str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
