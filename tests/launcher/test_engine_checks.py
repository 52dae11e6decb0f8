"""Settings of the engine: what is refused, and what is said to have no effect."""

import pytest

from launcher.config import EngineConfig, ParallelConfig, RunConfig
from launcher.engine_checks import engine_problems

TREE = {
    "run_dir": "run",
    "model": {
        "vocab_size": 512,
        "hidden_size": 48,
        "num_hidden_layers": 6,
        "num_attention_heads": 12,
        "intermediate_size": 96,
    },
    "data": {"tokenizer": "tokenizer", "sources": [{"path": "set"}]},
    "train": {"steps": 9, "global_batch_size": 48, "micro_batch_size": 1, "seq_len": 96},
    "optimizer": {"lr": 1e-3},
}
ZBV = {"pp": 2, "pp_schedule": "zbv"}
ZERO3 = {"name": "deepspeed", "zero_stage": 3}
RAW_ZERO3 = {"name": "deepspeed", "deepspeed": {"raw": {"zero_optimization": {"stage": 3}}}}


def found(severity, engine, parallel=None):
    config = RunConfig.model_validate({**TREE, "engine": engine, "parallel": parallel or {}})
    return {p.setting: p.message for p in engine_problems(config) if p.severity == severity}


@pytest.mark.parametrize(
    ("engine", "parallel", "setting", "part"),
    [
        ({"name": "fsdp", "zero_stage": 3}, {}, "engine.zero_stage", "fsdp shards as stage 3 does; remove zero_stage"),
        ({"name": "ddp", "zero_stage": 1}, {}, "engine.zero_stage", "only engine.name=deepspeed has stages"),
        ({"name": "single", "zero_stage": 1}, {}, "engine.zero_stage", "and it is single"),
        (
            {"name": "deepspeed", "zero_stage": 2, "deepspeed": {"offload_parameters": "cpu"}},
            {},
            "engine.deepspeed.offload_parameters",
            "zero_stage=3",
        ),
        (
            {"name": "deepspeed", "deepspeed": {"offload_optimizer": "nvme", "nvme_path": "/x"}},
            {},
            "engine.deepspeed.offload_optimizer",
            "zero_stage=3",
        ),
        (
            {**ZERO3, "deepspeed": {"offload_optimizer": "nvme"}},
            {},
            "engine.deepspeed.nvme_path",
            "must name a folder",
        ),
        (
            {"activation_checkpointing": "memory_budget"},
            {},
            "engine.activation_checkpointing",
            "engine.compile is false; set it, or use selective",
        ),
        (
            {**ZERO3, "activation_checkpointing": "selective"},
            {},
            "engine.activation_checkpointing",
            "full or every_nth",
        ),
        (
            {**RAW_ZERO3, "activation_checkpointing": "selective"},
            {},
            "engine.activation_checkpointing",
            "full or every_nth",
        ),
        (
            {"name": "fsdp", "activation_checkpointing": "selective"},
            ZBV,
            "engine.activation_checkpointing",
            "use every_nth or full, or another schedule",
        ),
        ({"name": "fsdp", "compile": True}, ZBV, "engine.compile", "use 1f1b or interleaved_1f1b, or compile=false"),
    ],
)
def test_what_does_not_fit_is_refused(engine, parallel, setting, part):
    assert part in found("error", engine, parallel)[setting]


@pytest.mark.parametrize(
    ("engine", "parallel"),
    [
        ({**ZERO3, "deepspeed": {"offload_parameters": "cpu"}}, {}),
        ({**ZERO3, "deepspeed": {"offload_optimizer": "nvme", "nvme_path": "/x"}}, {}),
        ({**ZERO3, "activation_checkpointing": "every_nth"}, {}),
        ({"name": "deepspeed", "activation_checkpointing": "selective"}, {}),
        ({"name": "fsdp", "activation_checkpointing": "selective"}, {"pp": 2}),
        ({"name": "fsdp", "compile": True, "activation_checkpointing": "memory_budget"}, {"pp": 2}),
        ({"name": "fsdp", "activation_checkpointing": "full"}, ZBV),
        ({"name": "fsdp", "compile": True, "activation_checkpointing": "selective"}, {"pp_schedule": "zbv"}),
    ],
)
def test_what_is_refused_next_to_it_fits(engine, parallel):
    assert found("error", engine, parallel) == {}


@pytest.mark.parametrize(
    ("engine", "parallel", "setting", "reader"),
    [
        ({"name": "ddp", "reshard_after_forward": False}, {}, "engine.reshard_after_forward", "engine.name=fsdp"),
        ({"prefetch_blocks": 2}, {}, "engine.prefetch_blocks", "engine.name=fsdp"),
        ({"name": "fsdp", "bucket_megabytes": 5}, {}, "engine.bucket_megabytes", "engine.name=ddp or deepspeed"),
        ({"activation_checkpointing_nth": 3}, {}, "engine.activation_checkpointing_nth", "every_nth"),
        ({"activation_memory_budget": 0.1}, {}, "engine.activation_memory_budget", "memory_budget"),
        (
            {"deepspeed": {"offload_optimizer": "cpu"}},
            {},
            "engine.deepspeed.offload_optimizer",
            "engine.name=deepspeed",
        ),
        ({"deepspeed": {"raw": {"x": 1}}}, {}, "engine.deepspeed.raw", "engine.name=deepspeed"),
        ({**ZERO3, "deepspeed": {"nvme_path": "/x"}}, {}, "engine.deepspeed.nvme_path", "offload_optimizer=nvme"),
        ({"name": "fsdp"}, {"pp_schedule": "zbv"}, "parallel.pp_schedule", "pp above 1"),
        ({"name": "fsdp"}, {"pp_stages_per_rank": 3}, "parallel.pp_stages_per_rank", "pp above 1"),
        ({"name": "fsdp"}, {"pp": 2, "pp_stages_per_rank": 3}, "parallel.pp_stages_per_rank", "interleaved_1f1b"),
        ({"name": "fsdp"}, {"cp_method": "ulysses"}, "parallel.cp_method", "cp above 1"),
        ({"offload_activations": True, "device": "cpu"}, {}, "engine.offload_activations", "on a CPU"),
        (
            {"offload_activations": True, "activation_checkpointing": "selective"},
            {},
            "engine.offload_activations",
            "moves only the inputs of blocks",
        ),
        ({"name": "fsdp", "activation_checkpointing": "full"}, ZBV, "engine.activation_checkpointing", "twice"),
        (
            {"name": "fsdp", "activation_checkpointing": "full", "compile": True},
            {"cp": 2},
            "engine.compile",
            "messages",
        ),
        ({**ZERO3, "activation_checkpointing": "full", "compile": True}, {}, "engine.compile", "gathering"),
        ({**RAW_ZERO3, "activation_checkpointing": "full", "compile": True}, {}, "engine.compile", "gathering"),
    ],
)
def test_what_has_no_effect_or_another_than_meant_is_noted(engine, parallel, setting, reader):
    assert found("error", engine, parallel) == {}
    assert reader in found("note", engine, parallel)[setting]


def test_defaults_are_silent():
    for engine in ("single", "ddp", "fsdp", "deepspeed"):
        assert found("note", {"name": engine}) == found("error", {"name": engine}) == {}


def test_every_setting_that_is_read_somewhere_only_is_known():
    """A new setting of these groups must be placed: read by all, or in the table of readers."""
    everywhere = {"name", "zero_stage", "deepspeed", "ranks", "device", "precision", "compile", "deterministic"}
    everywhere |= {"activation_checkpointing", "offload_activations", "timeout_seconds"}
    conditional = {"activation_checkpointing_nth", "activation_memory_budget", "reshard_after_forward"}
    conditional |= {"prefetch_blocks", "bucket_megabytes"}
    assert everywhere | conditional == set(EngineConfig.model_fields)
    assert set(ParallelConfig.model_fields) == {
        "dp_replicate",
        "dp_shard",
        "tp",
        "pp",
        "pp_schedule",
        "pp_stages_per_rank",
        "cp",
        "cp_method",
    }
