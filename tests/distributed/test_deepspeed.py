"""ZeRO beside the other engines: the same weights, losses, norms and checkpoints, whatever it shards and offloads."""

import os
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from megamodel.checkpoint import load_weights
from tests.conftest import GPT2, LLAMA, metrics_of
from tests.ranks import in_ranks, train_in_ranks

# Models of this size would never be sharded: DeepSpeed keeps small parameters whole between the steps.
SHARD_ALL = "engine.deepspeed.raw={zero_optimization: {stage3_param_persistence_threshold: 0}}"
OFFLOAD = ["engine.deepspeed.offload_optimizer=cpu", "engine.deepspeed.offload_parameters=cpu"]
LAYOUTS = {
    "zero1 x 2": (2, ["engine.zero_stage=1"]),
    "zero2 x 2": (2, ["engine.zero_stage=2"]),
    "zero2 x 2, offload": (2, ["engine.zero_stage=2", OFFLOAD[0]]),
    "zero3 x 2": (2, ["engine.zero_stage=3"]),
    "zero3 x 2, one micro-batch": (2, ["engine.zero_stage=3", SHARD_ALL, "train.micro_batch_size=4"]),
    "zero3 x 4, offload": (4, ["engine.zero_stage=3", SHARD_ALL, *OFFLOAD]),
}


def _run(tiny_run, **groups):
    """A run of ten steps, saved before the first and after each fifth."""
    return tiny_run(
        **{
            "train": {"steps": 10, "validate_every_steps": 5},
            "checkpoint": {"every_steps": 5, "keep": 5, "initial": True},
            **groups,
        }
    )


def _deepspeed(config, folder, ranks, *overrides, **more):
    return train_in_ranks(config, "engine.name=deepspeed", *overrides, f"run_dir={folder}", ranks=ranks, **more)


def _assert_same(run, reference, loss=1e-5, norm=1e-4):
    lines, expected = metrics_of(run), metrics_of(reference)
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for ours, theirs in zip(lines, expected, strict=True):
        where = (run.name, ours["step"])
        assert ours["samples_digest"] == theirs["samples_digest"], where
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=loss), where
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=norm), where
        if "validation_loss" in theirs:
            assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=loss), where


def _first_weights(run):
    return load_weights(run / "checkpoints" / "step_00000000")


@pytest.mark.parametrize("model", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_zero_is_the_same_training(tiny_run, tmp_path, model):
    config = _run(tiny_run, model=model)
    train_in_ranks(config)
    start = _first_weights(tmp_path / "run")
    for name, (ranks, overrides) in LAYOUTS.items():
        output = _deepspeed(config, tmp_path / name, ranks, *overrides)
        assert "Warning" not in output and "[INFO]" not in output, name
        _assert_same(tmp_path / name, tmp_path / "run")
        weights = _first_weights(tmp_path / name)
        assert all(torch.equal(weights[key], value) for key, value in start.items()), name


def test_without_clipping(tiny_run, tmp_path):
    """DeepSpeed would clip to 1.0 by itself."""
    config = _run(tiny_run, model=GPT2, optimizer={"max_grad_norm": None})
    train_in_ranks(config)
    assert max(line["grad_norm"] for line in metrics_of(tmp_path / "run")) > 1.0, "clipping would change nothing"
    for stage in (2, 3):
        _deepspeed(config, tmp_path / str(stage), 2, f"engine.zero_stage={stage}")
        _assert_same(tmp_path / str(stage), tmp_path / "run")


def test_bf16_computes_on_fp32_masters(tiny_run, tmp_path):
    """Masters are the fp32 draw itself, not its bf16 rounding, and stay fp32."""
    config = _run(tiny_run)
    train_in_ranks(config)
    start = _first_weights(tmp_path / "run")
    for stage in (1, 2, 3):
        run = tmp_path / f"zero{stage}"
        _deepspeed(config, run, 2, f"engine.zero_stage={stage}", SHARD_ALL, "engine.precision=bf16")
        pairs = list(zip(metrics_of(run), metrics_of(tmp_path / "run"), strict=True))
        assert all(ours["loss"] == pytest.approx(theirs["loss"], rel=2e-2) for ours, theirs in pairs)
        assert any(ours["loss"] != pytest.approx(theirs["loss"], rel=1e-6) for ours, theirs in pairs), "not bf16"
        weights, last = _first_weights(run), load_weights(run / "checkpoints" / "step_00000010")
        assert all(torch.equal(weights[key], value) for key, value in start.items())
        assert all(not torch.equal(value, value.bfloat16().float()) for value in last.values())


@pytest.mark.parametrize("name", ["zero1 x 2", "zero2 x 2, offload", "zero3 x 2", "zero3 x 2, one micro-batch"])
def test_it_goes_on_from_its_own_checkpoint(tiny_run, tmp_path, name):
    """In bf16, so that the weights that compute must be made anew from the masters."""
    ranks, overrides = LAYOUTS[name]
    config = _run(tiny_run, engine={"precision": "bf16"})
    _deepspeed(config, tmp_path / "whole", ranks, *overrides)
    _deepspeed(config, tmp_path / "cut", ranks, *overrides, "train.stop_at_step=5")
    _deepspeed(config, tmp_path / "cut", ranks, *overrides)
    _assert_same(tmp_path / "cut", tmp_path / "whole", loss=1e-6, norm=1e-6)


@pytest.mark.parametrize("model", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_stages_and_engines_change_between_restarts(tiny_run, tmp_path, model):
    config = _run(tiny_run, model=model)
    train_in_ranks(config)
    run = tmp_path / "changing"
    train_in_ranks(config, "train.stop_at_step=2", f"run_dir={run}")
    for stop, name in ((4, "zero1 x 2"), (6, "zero3 x 2"), (8, "zero2 x 2, offload")):
        ranks, overrides = LAYOUTS[name]
        _deepspeed(config, run, ranks, *overrides, f"train.stop_at_step={stop}")
    train_in_ranks(config, f"run_dir={run}")
    _assert_same(run, tmp_path / "run")


def test_recomputed_blocks_and_small_buckets_change_nothing(tiny_run, tmp_path):
    config = _run(tiny_run, engine={"activation_checkpointing": "full", "bucket_megabytes": 0.01})
    train_in_ranks(config)
    for stage in (1, 2, 3):
        _deepspeed(config, tmp_path / str(stage), 2, f"engine.zero_stage={stage}", SHARD_ALL)
        _assert_same(tmp_path / str(stage), tmp_path / "run")


@pytest.mark.parametrize("stage", [2, 3])
def test_a_loss_that_is_no_number_ends_the_run(tiny_run, tmp_path, stage):
    """DeepSpeed would skip such steps and go on."""
    config = _run(tiny_run, optimizer={"lr": 1e30, "max_grad_norm": None})
    output = _deepspeed(config, tmp_path / "run", 2, f"engine.zero_stage={stage}", code=1)
    assert "not a finite number" in output and "Traceback" not in output


def test_what_deepspeed_would_ignore_or_refuse_is_refused_in_a_sentence(tiny_run, tmp_path):
    config = _run(tiny_run)
    for raw, said in (
        ("{zero_optimization: {stage3_prefetch_bucket: 5}}", "stage3_prefetch_bucket: is no key"),
        ("{zero_optimisation: {reduce_bucket_size: 5}}", "zero_optimisation is no key that DeepSpeed reads"),
        ("{elasticity: {enabled: true}}", "Elastic training has been removed"),
        ("{train_batch_size: 1000}", "use train.global_batch_size"),
        ("{optimizer: {type: Lion}}", "optimizer cannot be set here"),
    ):
        output = _deepspeed(config, tmp_path / "run", 1, f"engine.deepspeed.raw={raw}", code=2)
        assert said in output and "Traceback" not in output, output


def test_a_raw_key_that_contradicts_wins_and_is_told(tiny_run, tmp_path):
    config = _run(tiny_run, train={"stop_at_step": 2})
    raw = "engine.deepspeed.raw={zero_optimization: {stage: 1, reduce_bucket_size: 1000}}"
    output = _deepspeed(config, tmp_path / "run", 2, raw)
    assert "warning: engine.deepspeed.raw: zero_optimization.stage is 1, our settings say 2; the raw key wins" in output
    assert output.count("zero_optimization.stage is 1") == 1, "told once"
    assert len(metrics_of(tmp_path / "run")) == 2


def _without_deepspeed():
    sys.modules["deepspeed"] = None


def test_a_missing_package_names_the_extra(tiny_run, tmp_path):
    output = _deepspeed(_run(tiny_run), tmp_path / "run", 1, code=2, planted=_without_deepspeed)
    assert "pip install 'megamodel[deepspeed]'" in output and "Traceback" not in output


def _ranks():
    from launcher.cluster.ranks import Ranks

    os.environ["LOCAL_RANK"] = str(dist.get_rank())
    return Ranks(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))


def _wait_for_a_late_rank() -> float:
    """Seconds until rank 0 gives up in the group that DeepSpeed reduces with."""
    from launcher.engines.deepspeed_package import import_deepspeed

    ranks = _ranks()
    import_deepspeed(ranks, timedelta(seconds=1))
    from deepspeed.utils import groups

    started = time.monotonic()
    if ranks.first:
        with pytest.raises(RuntimeError, match=r"[Tt]imed out"):
            dist.all_reduce(torch.zeros(1), group=groups._WORLD_GROUP)
    else:
        time.sleep(8)
    return time.monotonic() - started


def test_its_collectives_give_up_after_the_runs_timeout():
    assert in_ranks(_wait_for_a_late_rank, 2)[0] < 6


def _growth_while_building(config: str) -> tuple[int, int]:
    """How far this rank's memory rises at most while ZeRO-3's model is made, and the bytes of all its weights."""
    from launcher.config import RunConfig
    from launcher.engines.deepspeed import DeepSpeedEngine
    from launcher.yaml_config import load

    def resident(field: str) -> int:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
        return 1024 * int(line.split()[1])

    grown = []

    class Measured(DeepSpeedEngine):
        def _build_model(self):
            Path("/proc/self/clear_refs").write_text("5")  # the peak is that of now
            before = resident("VmRSS")
            model = super()._build_model()
            grown.append(resident("VmHWM") - before)
            return model

    run = load(Path(config), RunConfig, ["engine.name=deepspeed", "engine.zero_stage=3", SHARD_ALL]).value
    engine = Measured(run, _ranks())
    return grown[0], sum(4 * p.ds_numel for p in engine.module.module.parameters())


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_rank_holds_the_whole_model_while_it_is_made(tiny_run):
    config = tiny_run(model=LLAMA | {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 24})
    for grown, whole in in_ranks(_growth_while_building, 4, str(config)):
        assert whole > 250e6 and grown < 0.4 * whole, (grown, whole)


def _async_io_can_be_built() -> bool:
    from deepspeed.ops.op_builder import AsyncIOBuilder

    return AsyncIOBuilder().is_compatible()


def _nvme(folder):
    return ["engine.zero_stage=3", "engine.deepspeed.offload_optimizer=nvme", f"engine.deepspeed.nvme_path={folder}"]


def test_nvme_is_refused_in_a_sentence_where_it_cannot_work(tiny_run, tmp_path):
    if _async_io_can_be_built():
        pytest.skip("it can work here: see the next test")
    output = _deepspeed(_run(tiny_run), tmp_path / "run", 1, *_nvme(tmp_path / "nvme"), code=2)
    assert "libaio-dev" in output and "Traceback" not in output
    place = f"{{device: nvme, nvme_path: {tmp_path / 'nvme'}}}"
    raw = f"engine.deepspeed.raw={{zero_optimization: {{stage: 3, offload_param: {place}}}}}"
    output = _deepspeed(_run(tiny_run), tmp_path / "run", 2, raw, code=2)
    assert "libaio-dev" in output and "Traceback" not in output


@pytest.mark.slow
def test_the_optimizer_on_nvme(tiny_run, tmp_path):
    """With weights large enough to be moved there; the first run compiles DeepSpeed's async_io for minutes."""
    if not _async_io_can_be_built():
        pytest.skip("needs libaio's headers")
    config = _run(tiny_run, model=LLAMA | {"hidden_size": 256, "intermediate_size": 704})
    train_in_ranks(config)
    for stop in (5, 10):
        _deepspeed(config, tmp_path / "nvme run", 2, *_nvme(tmp_path / "nvme"), f"train.stop_at_step={stop}")
    assert len(list((tmp_path / "nvme").rglob("exp_avg-*.swp"))) == 2
    _assert_same(tmp_path / "nvme run", tmp_path / "run")


@pytest.mark.slow
def test_compiled_blocks_are_the_same_training(tiny_run, tmp_path):
    config = _run(tiny_run, train={"steps": 4})
    train_in_ranks(config)
    for stage in (1, 2, 3):
        _deepspeed(config, tmp_path / str(stage), 2, f"engine.zero_stage={stage}", "engine.compile=true")
        _assert_same(tmp_path / str(stage), tmp_path / "run")
