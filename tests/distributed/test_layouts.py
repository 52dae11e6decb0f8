"""Promise 2, the part with data parallel layouts: every layout is the same training."""

import pytest

from tests.conftest import GPT2, LLAMA, metrics_of
from tests.ranks import train_in_ranks

LAYOUTS = {
    "fsdp x 1": (1, ["engine.name=fsdp"]),
    "fsdp x 2": (2, ["engine.name=fsdp"]),
    "fsdp x 4": (4, ["engine.name=fsdp"]),
    "hsdp 2 x 2": (4, ["engine.name=fsdp", "parallel.dp_replicate=2"]),
    "ddp x 2": (2, ["engine.name=ddp"]),
}


@pytest.mark.parametrize("model", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_every_layout_is_the_same_training(tiny_run, tmp_path, model):
    config = tiny_run(model=model)
    train_in_ranks(config)
    reference = metrics_of(tmp_path / "run")
    assert [line["step"] for line in reference] == list(range(1, 21))
    for name, (ranks, overrides) in LAYOUTS.items():
        train_in_ranks(config, *overrides, f"run_dir={tmp_path / name}", ranks=ranks)
        for ours, theirs in zip(metrics_of(tmp_path / name), reference, strict=True):
            assert ours["samples_digest"] == theirs["samples_digest"], name
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5), (name, ours["step"])
            assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4), (name, ours["step"])
            if "validation_loss" in theirs:
                assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=1e-5), name


def test_accumulation_and_checkpointing_change_nothing(tiny_run, tmp_path):
    config = tiny_run()
    train_in_ranks(config)
    for name, ranks, *overrides in (
        ("one micro-batch", 1, "train.micro_batch_size=8"),
        ("recomputed", 1, "engine.activation_checkpointing=full"),
        ("fsdp accumulates", 2, "engine.name=fsdp", "train.micro_batch_size=1"),
        ("ddp accumulates", 2, "engine.name=ddp", "train.micro_batch_size=1"),
    ):
        train_in_ranks(config, *overrides, f"run_dir={tmp_path / name}", ranks=ranks)
        for ours, theirs in zip(metrics_of(tmp_path / name), metrics_of(tmp_path / "run"), strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5), (name, ours["step"])
