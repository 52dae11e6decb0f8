"""Promise 2 beside the layouts (see test_parity): accumulation, recomputation, bf16 and compile change nothing."""

import pytest

from tests.conftest import metrics_of
from tests.ranks import train_in_ranks


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
