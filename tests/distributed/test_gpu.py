"""What only a GPU can show. Run with: pytest -m gpu"""

import pytest
import torch

from tests.conftest import GPT2, LLAMA, metrics_of, run_training

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here")]


@pytest.mark.parametrize("model", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("engine", ["single", "ddp", "fsdp"])
def test_bf16_on_a_gpu_follows_fp32_on_the_cpu(tiny_run, tmp_path, model, engine):
    config = tiny_run(model=model)
    run_training(config)
    run_training(config, "engine.device=cuda", f"engine.name={engine}", "engine.ranks=1", f"run_dir={tmp_path / 'gpu'}")
    for ours, theirs in zip(metrics_of(tmp_path / "gpu"), metrics_of(tmp_path / "run"), strict=True):
        assert ours["samples_digest"] == theirs["samples_digest"]
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-2)


def test_a_run_moves_between_gpu_and_cpu(tiny_run, tmp_path):
    config = tiny_run(engine={"precision": "fp32"})
    run_training(config, f"run_dir={tmp_path / 'cpu'}")
    run_training(config, "engine.device=cuda", "train.stop_at_step=10")
    run_training(config)
    for ours, theirs in zip(metrics_of(tmp_path / "run"), metrics_of(tmp_path / "cpu"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)


def test_compile_and_recompute_on_a_gpu(tiny_run, tmp_path):
    config = tiny_run(engine={"device": "cuda"})
    run_training(config)
    run_training(
        config, "engine.compile=true", "engine.activation_checkpointing=full", f"run_dir={tmp_path / 'compiled'}"
    )
    for ours, theirs in zip(metrics_of(tmp_path / "compiled"), metrics_of(tmp_path / "run"), strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=2e-2)
