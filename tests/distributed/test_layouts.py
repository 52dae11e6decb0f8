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


def test_bf16_computes_on_fp32_masters_in_every_engine(tiny_run, tmp_path):
    import torch
    from safetensors.torch import load_file

    config = tiny_run(engine={"precision": "bf16"})
    train_in_ranks(config, "engine.precision=fp32")
    for name, ranks in {"single": 1, "ddp": 2, "fsdp": 2}.items():
        train_in_ranks(config, f"engine.name={name}", f"run_dir={tmp_path / name}", ranks=ranks)
        pairs = list(zip(metrics_of(tmp_path / name), metrics_of(tmp_path / "run"), strict=True))
        assert all(ours["loss"] == pytest.approx(theirs["loss"], rel=2e-2) for ours, theirs in pairs), name
        assert any(ours["loss"] != theirs["loss"] for ours, theirs in pairs), f"{name} did not compute in bf16"
        saved = load_file(tmp_path / name / "checkpoints" / "step_00000020" / "rank_00000.safetensors")
        assert {tensor.dtype for tensor in saved.values()} == {torch.float32}


def test_compiled_blocks_are_the_same_training(tiny_run, tmp_path):
    config = tiny_run(train={"steps": 4}, optimizer={"schedule": {"name": "cosine"}})
    train_in_ranks(config)
    for name, ranks in {"single": 1, "fsdp": 2}.items():
        train_in_ranks(config, f"engine.name={name}", "engine.compile=true", f"run_dir={tmp_path / name}", ranks=ranks)
        for ours, theirs in zip(metrics_of(tmp_path / name), metrics_of(tmp_path / "run"), strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5), name
