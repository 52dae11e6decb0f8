"""DeepSpeed's own configuration, as a pure function of ours."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from launcher.config import RunConfig
from launcher.errors import UserError

Json = dict[str, Any]

DEFAULT_STAGE = 2
"""What engine.zero_stage means when it is unset."""

_BYTES_OF_FP32 = 4

_RAW = "engine.deepspeed.raw"

_OF_THE_STEP = "every engine divides the summed loss by all tokens of a step, which DeepSpeed's own factors would undo"

_SET_ELSEWHERE = {
    "train_batch_size": "use train.global_batch_size",
    "train_micro_batch_size_per_gpu": "use train.micro_batch_size",
    "gradient_accumulation_steps": (
        "it follows from train.global_batch_size, train.micro_batch_size and the number of ranks"
    ),
    "managed_gradient_accumulation": "the loop accumulates, as train.global_batch_size and train.micro_batch_size say",
    "prescale_gradients": _OF_THE_STEP,
    "gradient_predivide_factor": _OF_THE_STEP,
    "gradient_allreduce_op": _OF_THE_STEP,
    "amp": "use engine.precision=bf16; DeepSpeed has removed it",
    "optimizer": "the optimizer is AdamW with the settings of `optimizer`",
    "scheduler": "the learning rate follows optimizer.schedule",
    "fp16": "use engine.precision=bf16, which needs no loss scaling",
    "torch_autocast": "use engine.precision=bf16",
    "tensor_parallel": "use engine.name=fsdp with parallel.tp",
    "expert_parallel": "the engine deepspeed shards data parallel ranks only",
    "sequence_parallel_size": "use engine.name=fsdp with parallel.cp",
    "pipeline": "use engine.name=fsdp with parallel.pp",
}
"""Keys of DeepSpeed that our settings or our loop replace: they would be ignored, or change what a step means."""

_OLD_NAMES = {
    "cpu_offload": "engine.deepspeed.offload_optimizer=cpu",
    "cpu_offload_param": "engine.deepspeed.offload_parameters=cpu",
}
"""Keys of zero_optimization that DeepSpeed still takes for newer ones."""


class Contradiction(NamedTuple):
    """A raw key that sets what our settings set otherwise."""

    key: str
    ours: Any
    raw: Any

    @property
    def message(self) -> str:
        """Both values, and which counts."""
        return f"{self.key} is {self.raw!r}, our settings say {self.ours!r}; the raw key wins"

    def __str__(self) -> str:
        return f"{_RAW}: {self.message}"


def deepspeed_json(config: RunConfig, world_size: int, precision: Literal["fp32", "bf16"]) -> Json:
    """What DeepSpeed 0.19 is given: our settings in its words, with engine.deepspeed.raw merged over them.

    Values whose defaults moved between DeepSpeed's versions, or that the meaning of our settings rests on, are pinned.
    Raises UserError for settings that DeepSpeed would ignore or that cannot work.
    """
    for setting, message in problems(config):
        raise UserError(f"{setting}: {message}")
    return _merged(_from_settings(config, world_size, precision), config.engine.deepspeed.raw)


def contradictions(config: RunConfig, world_size: int, precision: Literal["fp32", "bf16"]) -> list[Contradiction]:
    """Where engine.deepspeed.raw says something else than our settings."""
    return list(_differences(_from_settings(config, world_size, precision), config.engine.deepspeed.raw))


def effective_stage(config: RunConfig) -> int:
    """The stage that DeepSpeed is given: engine.zero_stage, or the raw key over it."""
    stage: int = _effective_zero(config)["stage"]
    return stage


def problems(config: RunConfig) -> Iterator[tuple[str, str]]:
    """Settings of the engine deepspeed that do not fit each other: the setting's name, and what is wrong with it."""
    raw = config.engine.deepspeed.raw
    for key in raw:
        if key in _SET_ELSEWHERE:
            yield _RAW, f"{key} cannot be set here: {_SET_ELSEWHERE[key]}"
    no_mappings = [key for key in ("zero_optimization", "bf16", "data_types") if not isinstance(raw.get(key, {}), dict)]
    for key in no_mappings:
        yield _RAW, f"{key} must be a mapping of DeepSpeed's keys"
    if no_mappings:
        return
    raw_zero = raw.get("zero_optimization", {})
    for key, instead in _OLD_NAMES.items():
        if key in raw_zero:
            yield _RAW, f"zero_optimization.{key} is an old name: use {instead}"
    if raw_zero.get("round_robin_gradients"):
        # Its map of fragments does not follow the round-robin order (seen as losses off by a thousandth after a load).
        yield (
            _RAW,
            "zero_optimization.round_robin_gradients cannot be set: DeepSpeed 0.19.8 then takes pieces of one "
            "parameter's state for another's, and checkpoints would hold them under wrong names",
        )
    if effective_stage(config) not in (1, 2, 3):
        yield _RAW, f"zero_optimization.stage is {effective_stage(config)!r}; it is 1, 2 or 3"
    else:
        yield from _offload_problems(config)


def _offload_problems(config: RunConfig) -> Iterator[tuple[str, str]]:
    """What cannot be moved out of the device's memory; read from what DeepSpeed is given, whoever has set it."""
    stage, zero = effective_stage(config), _effective_zero(config)
    for ours, theirs in (("offload_parameters", "offload_param"), ("offload_optimizer", "offload_optimizer")):
        in_raw = theirs in config.engine.deepspeed.raw.get("zero_optimization", {})
        setting, what = (_RAW, f"zero_optimization.{theirs} ") if in_raw else (f"engine.deepspeed.{ours}", "")
        device = offload_device(zero, theirs)
        if theirs == "offload_param" and device != "none" and stage != 3:
            yield setting, f"{what}needs engine.zero_stage=3, which shards parameters; the stage is {stage}"
        elif device == "nvme" and stage != 3:
            yield setting, f"{what}nvme needs engine.zero_stage=3; the stage is {stage}. cpu works with it"
        if device == "nvme" and zero[theirs].get("nvme_path") is None:
            setting = _RAW if in_raw else "engine.deepspeed.nvme_path"
            path = f"zero_optimization.{theirs}.nvme_path " if in_raw else ""
            yield setting, f"{path}must name a folder on a local disk, for {ours} to nvme"


def offload_device(zero: Json, what: str) -> str:
    """Where DeepSpeed's section zero_optimization puts parameters or the optimizer's state: none, cpu or nvme."""
    place = zero.get(what)
    return str(place.get("device", "none")) if isinstance(place, dict) else "none"


def _effective_zero(config: RunConfig) -> Json:
    """The section zero_optimization that DeepSpeed is given, for raw keys that are a mapping."""
    raw = config.engine.deepspeed.raw.get("zero_optimization", {})
    return _merged(_zero(config), raw if isinstance(raw, dict) else {})


def _from_settings(config: RunConfig, world_size: int, precision: Literal["fp32", "bf16"]) -> Json:
    train, clip = config.train, config.optimizer.max_grad_norm
    return {
        "train_micro_batch_size_per_gpu": train.micro_batch_size,
        "gradient_accumulation_steps": max(1, train.global_batch_size // (train.micro_batch_size * world_size)),
        "gradient_clipping": clip if clip is not None else 0.0,
        "gradient_allreduce_op": "mean",
        "prescale_gradients": False,
        "gradient_predivide_factor": 1.0,
        # A step is never skipped in silence: the loop itself stops at a loss or a norm that is not finite.
        "bf16": {"enabled": precision == "bf16", "check_grad_overflow": False},
        "data_types": {"grad_accum_dtype": "fp32"},
        "communication_data_type": "fp32",
        # torch's fused AdamW runs on a CPU as well; DeepSpeed's own would be compiled on every machine first.
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": _zero(config),
    }


def _zero(config: RunConfig) -> Json:
    settings = config.engine.deepspeed
    elements = 2 * round(config.engine.bucket_megabytes * 1e6 / _BYTES_OF_FP32 / 2)  # DeepSpeed wants an even number
    zero: Json = {
        "stage": config.engine.zero_stage or DEFAULT_STAGE,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_scatter": True,
        "reduce_bucket_size": max(2, elements),
        "allgather_bucket_size": max(2, elements),
    }
    if settings.offload_optimizer != "none":
        zero["offload_optimizer"] = {"device": settings.offload_optimizer}
    if settings.offload_optimizer == "nvme" and settings.nvme_path is not None:
        zero["offload_optimizer"]["nvme_path"] = str(settings.nvme_path)
    if settings.offload_parameters != "none":
        zero["offload_param"] = {"device": settings.offload_parameters}
    return zero


def _merged(ours: Json, raw: Json) -> Json:
    """`raw` over `ours`, mapping by mapping."""
    both = {
        key: _merged(ours[key], value) if isinstance(value, dict) and isinstance(ours.get(key), dict) else value
        for key, value in raw.items()
    }
    return ours | both


def _differences(ours: Json, raw: Json, prefix: str = "") -> Iterator[Contradiction]:
    for key in ours.keys() & raw.keys():
        if isinstance(ours[key], dict) and isinstance(raw[key], dict):
            yield from _differences(ours[key], raw[key], f"{prefix}{key}.")
        elif ours[key] != raw[key]:
            yield Contradiction(prefix + key, ours[key], raw[key])
