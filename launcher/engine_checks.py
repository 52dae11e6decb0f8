"""Settings of the engine that do not fit each other, or that nothing will read."""

from collections.abc import Iterator
from typing import Any

from launcher.config import EngineConfig, ParallelConfig, RunConfig
from launcher.deepspeed_json import effective_stage
from launcher.deepspeed_json import problems as deepspeed_problems
from launcher.problems import Problem, error, note


def engine_problems(config: RunConfig) -> Iterator[Problem]:
    """What does not fit, and a note about each setting that has no effect."""
    yield from _zero(config)
    yield from _memory(config.engine)
    yield from _selective(config)
    yield from _compile(config)
    yield from _zero_bubble(config.engine, config.parallel)
    yield from _without_effect(config)


def _zero(config: RunConfig) -> Iterator[Problem]:
    engine = config.engine
    if engine.name == "deepspeed":
        yield from (error(setting, message) for setting, message in deepspeed_problems(config))
    elif engine.zero_stage is not None:
        alike = {"fsdp": "; fsdp shards as stage 3 does", "ddp": "; ddp shards nothing"}.get(engine.name, "")
        message = f"only engine.name=deepspeed has stages, and it is {engine.name}{alike}; remove zero_stage"
        yield error("engine.zero_stage", message)


def _memory(engine: EngineConfig) -> Iterator[Problem]:
    mode = engine.activation_checkpointing
    if mode == "memory_budget" and not engine.compile:
        message = "the compiler chooses within memory_budget, and engine.compile is false; set it, or use selective"
        yield error("engine.activation_checkpointing", message)
    if engine.offload_activations and engine.device == "cpu":
        yield note("engine.offload_activations", "has no effect on a CPU: activations lie in its memory already")
    elif engine.offload_activations and mode == "selective" and not engine.compile:
        message = "moves only the inputs of blocks: what activation_checkpointing=selective keeps stays on the GPU"
        yield note("engine.offload_activations", message + " unless engine.compile is set")


def _selective(config: RunConfig) -> Iterator[Problem]:
    """Where recomputing some operations and not others cannot work."""
    engine, parallel = config.engine, config.parallel
    if engine.activation_checkpointing != "selective":
        return
    if engine.name == "deepspeed" and effective_stage(config) == 3:
        message = (
            "with zero_stage=3 the backward pass gathers other parameters than the forward pass did, which selective"
        )
        yield error(
            "engine.activation_checkpointing", f"{message} cannot follow; use full or every_nth, or zero_stage=2"
        )
    if _splits_backward(parallel):
        message = "what selective kept serves one backward pass, and parallel.pp_schedule=zbv makes two of each;"
        yield error("engine.activation_checkpointing", f"{message} use every_nth or full, or another schedule")


def _compile(config: RunConfig) -> Iterator[Problem]:
    """Where a block's graph has a break, which the compiler does not carry across into what is computed again."""
    engine, breaks = config.engine, []
    if config.parallel.cp > 1:
        breaks.append("the messages of parallel.cp")
    if engine.name == "deepspeed" and effective_stage(config) == 3:
        breaks.append("the gathering of zero_stage=3")
    if engine.compile and breaks and engine.activation_checkpointing in ("full", "every_nth", "selective"):
        message = f"has no effect on blocks that are computed again, for {' and '.join(breaks)} cannot be compiled;"
        yield note("engine.compile", f"{message} activation_checkpointing=memory_budget can be")


def _splits_backward(parallel: ParallelConfig) -> bool:
    return parallel.pp > 1 and parallel.pp_schedule == "zbv"


def _zero_bubble(engine: EngineConfig, parallel: ParallelConfig) -> Iterator[Problem]:
    """What the schedule that takes each backward pass apart does to blocks that are compiled or computed again."""
    if not _splits_backward(parallel):
        return
    if engine.compile:
        message = "a compiled block cannot be cut into the two backward passes of parallel.pp_schedule=zbv;"
        yield error("engine.compile", f"{message} use 1f1b or interleaved_1f1b, or compile=false")
    elif engine.activation_checkpointing in ("full", "every_nth"):
        message = (
            "blocks are computed again twice: once for each of the two backward passes of parallel.pp_schedule=zbv"
        )
        yield note("engine.activation_checkpointing", message)


def _without_effect(config: RunConfig) -> Iterator[Problem]:
    """A note for each setting that differs from its default while nothing reads it."""
    engine, parallel = config.engine, config.parallel
    read = {
        "reshard_after_forward": (engine.name == "fsdp", "engine.name=fsdp"),
        "prefetch_blocks": (engine.name == "fsdp", "engine.name=fsdp"),
        "bucket_megabytes": (engine.name in ("ddp", "deepspeed"), "engine.name=ddp or deepspeed"),
        "activation_checkpointing_nth": _only_with(engine, "activation_checkpointing", "every_nth"),
        "activation_memory_budget": _only_with(engine, "activation_checkpointing", "memory_budget"),
    }
    yield from _unread("engine", engine, read)
    nvme = (engine.deepspeed.offload_optimizer == "nvme", "offload_optimizer=nvme")
    deepspeed = (engine.name == "deepspeed", "engine.name=deepspeed")
    names = type(engine.deepspeed).model_fields
    read = {name: nvme if name == "nvme_path" and deepspeed[0] else deepspeed for name in names}
    yield from _unread("engine.deepspeed", engine.deepspeed, read)
    pipeline = (parallel.pp > 1, "pp above 1")
    stages = _only_with(parallel, "pp_schedule", "interleaved_1f1b") if parallel.pp > 1 else pipeline
    read = {"pp_schedule": pipeline, "pp_stages_per_rank": stages, "cp_method": (parallel.cp > 1, "cp above 1")}
    yield from _unread("parallel", parallel, read)


def _only_with(settings: Any, name: str, value: str) -> tuple[bool, str]:
    return getattr(settings, name) == value, f"{name}={value}"


def _unread(group: str, settings: Any, read: dict[str, tuple[bool, str]]) -> Iterator[Problem]:
    """Notes about a group's settings: by name, whether it is read, and what would read it."""
    for name, (is_read, reader) in read.items():
        default = type(settings).model_fields[name].get_default(call_default_factory=True)
        if not is_read and getattr(settings, name) != default:
            yield note(f"{group}.{name}", f"has no effect: it is read only with {reader}")
