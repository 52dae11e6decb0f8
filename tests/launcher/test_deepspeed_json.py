"""What DeepSpeed is given follows from our settings alone, and raw keys win over them, but never in silence."""

import json
import subprocess
import sys

import pytest

from launcher.config import RunConfig
from launcher.deepspeed_json import contradictions, deepspeed_json, effective_stage
from launcher.errors import UserError
from launcher.yaml_config import load
from tests.conftest import ROOT


def _config(tiny_run, *overrides: str) -> RunConfig:
    return load(tiny_run(), RunConfig, ["engine.name=deepspeed", *overrides]).value


def test_it_says_what_our_settings_say(tiny_run):
    config = _config(
        tiny_run, "train.global_batch_size=16", "optimizer.max_grad_norm=0.5", "engine.bucket_megabytes=100"
    )
    made = deepspeed_json(config, 2, "bf16")
    assert made["train_micro_batch_size_per_gpu"] * made["gradient_accumulation_steps"] * 2 == 16
    assert made["gradient_clipping"] == 0.5
    assert made["bf16"] == {"enabled": True, "check_grad_overflow": False}
    assert made["data_types"] == {"grad_accum_dtype": "fp32"} and made["communication_data_type"] == "fp32"
    assert made["zero_optimization"]["stage"] == 2
    assert made["zero_optimization"]["reduce_bucket_size"] == made["zero_optimization"]["allgather_bucket_size"] == 25e6
    assert json.loads(json.dumps(made)) == made


def test_no_clipping_is_pinned(tiny_run):
    """DeepSpeed's own default is 1.0."""
    assert deepspeed_json(_config(tiny_run, "optimizer.max_grad_norm=null"), 1, "fp32")["gradient_clipping"] == 0.0


def test_offload(tiny_run, tmp_path):
    cpu = _config(
        tiny_run,
        "engine.zero_stage=3",
        "engine.deepspeed.offload_optimizer=cpu",
        "engine.deepspeed.offload_parameters=cpu",
    )
    zero = deepspeed_json(cpu, 2, "fp32")["zero_optimization"]
    assert zero["offload_optimizer"] == zero["offload_param"] == {"device": "cpu"}
    nvme = _config(
        tiny_run,
        "engine.zero_stage=3",
        "engine.deepspeed.offload_optimizer=nvme",
        f"engine.deepspeed.nvme_path={tmp_path}",
    )
    zero = deepspeed_json(nvme, 2, "fp32")["zero_optimization"]
    assert zero["offload_optimizer"] == {"device": "nvme", "nvme_path": str(tmp_path)}


def test_raw_keys_win_and_contradictions_name_both_values(tiny_run):
    raw = "engine.deepspeed.raw={gradient_clipping: 2.0, zero_optimization: {stage: 2, allgather_partitions: false}}"
    config = _config(tiny_run, raw)
    made = deepspeed_json(config, 1, "fp32")
    assert made["gradient_clipping"] == 2.0
    assert made["zero_optimization"]["allgather_partitions"] is False and made["zero_optimization"]["overlap_comm"]
    (only,) = contradictions(config, 1, "fp32")
    assert "gradient_clipping is 2.0, our settings say 1.0" in str(only)


def _raw_zero(keys: str) -> str:
    return f"engine.deepspeed.raw={{zero_optimization: {keys}}}"


_PARAMETERS_ON_CPU = ["engine.deepspeed.offload_parameters=cpu"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["engine.deepspeed.offload_parameters=cpu"], "needs engine.zero_stage=3"),
        (["engine.deepspeed.offload_optimizer=nvme"], "nvme needs engine.zero_stage=3"),
        (["engine.deepspeed.offload_optimizer=nvme", "engine.zero_stage=3"], "nvme_path"),
        (["engine.deepspeed.raw={fp16: {enabled: true}}"], "engine.precision=bf16"),
        (["engine.deepspeed.raw={zero_optimization: {stage: 0}}"], "it is 1, 2 or 3"),
        (["engine.deepspeed.raw={zero_optimization: {round_robin_gradients: true}}"], "under wrong names"),
        (["engine.deepspeed.raw={zero_optimization: 2}"], "must be a mapping"),
        (["engine.deepspeed.raw={bf16: true}"], "must be a mapping"),
        (["engine.deepspeed.raw={gradient_accumulation_steps: 4}"], "follows from train.global_batch_size"),
        (["engine.deepspeed.raw={train_micro_batch_size_per_gpu: auto}"], "use train.micro_batch_size"),
        (["engine.deepspeed.raw={train_batch_size: 16}"], "use train.global_batch_size"),
        (["engine.deepspeed.raw={gradient_predivide_factor: 2.0}"], "all tokens of a step"),
        (["engine.deepspeed.raw={prescale_gradients: true}"], "all tokens of a step"),
        (["engine.deepspeed.raw={gradient_allreduce_op: sum}"], "all tokens of a step"),
        (["engine.deepspeed.raw={amp: {enabled: true}}"], "DeepSpeed has removed it"),
        ([_raw_zero("{offload_param: {device: cpu}}")], "offload_param needs engine.zero_stage=3"),
        ([_raw_zero("{stage: 1}"), "engine.zero_stage=3", *_PARAMETERS_ON_CPU], "the stage is 1"),
        ([_raw_zero("{offload_optimizer: {device: nvme, nvme_path: /x}}")], "nvme needs engine.zero_stage=3"),
        ([_raw_zero("{stage: 3, offload_optimizer: {device: nvme}}")], "offload_optimizer.nvme_path must name"),
        ([_raw_zero("{stage: 3, offload_param: {device: nvme}}")], "offload_param.nvme_path must name"),
        ([_raw_zero("{cpu_offload_param: true}")], "engine.deepspeed.offload_parameters=cpu"),
    ],
)
def test_settings_that_cannot_work_are_refused(tiny_run, overrides, said):
    with pytest.raises(UserError, match=said):
        deepspeed_json(_config(tiny_run, *overrides), 2, "fp32")


def test_the_stage_is_the_one_that_deepspeed_is_given(tiny_run):
    config = _config(tiny_run, _raw_zero("{stage: 3, offload_param: {device: cpu}}"))
    assert effective_stage(config) == deepspeed_json(config, 2, "fp32")["zero_optimization"]["stage"] == 3
    assert effective_stage(_config(tiny_run, "engine.zero_stage=1")) == 1 and effective_stage(_config(tiny_run)) == 2


def test_config_show_prints_it_and_warns(tiny_run):
    command = [sys.executable, "-m", "launcher", "config", "show", str(tiny_run()), "engine.name=deepspeed"]
    raw = "engine.deepspeed.raw={communication_data_type: bf16}"
    as_json = subprocess.run([*command, raw, "--json"], cwd=ROOT, capture_output=True, text=True)
    assert json.loads(as_json.stdout)["deepspeed"]["communication_data_type"] == "bf16"
    assert "communication_data_type is 'bf16', our settings say 'fp32'" in as_json.stderr
    as_yaml = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert '#     "stage": 2,' in as_yaml.stdout and not as_yaml.stderr
