"""What a check of the settings can tell only on the machine that would train."""

from collections.abc import Iterator
from typing import Literal

from launcher.config import RunConfig
from launcher.deepspeed_json import contradictions, deepspeed_json
from launcher.deepspeed_json import problems as deepspeed_problems
from launcher.errors import UserError
from launcher.layout_checks import nearest_ranks
from launcher.problems import Problem, error, note
from launcher.train.start import default_ranks

_RAW = "engine.deepspeed.raw"


def problems_here(config: RunConfig) -> Iterator[Problem]:
    """Whether the ranks that `megamodel train` would start here fit, and whether DeepSpeed takes its raw keys."""
    yield from _unset_ranks(config)
    if config.engine.name == "deepspeed" and config.engine.deepspeed.raw and not any(deepspeed_problems(config)):
        yield from _raw_keys(config)


def ranks_and_precision(config: RunConfig) -> tuple[int, Literal["fp32", "bf16"]]:
    """What `megamodel train` would start on this machine: how many ranks, and what they would compute in."""
    engine = config.engine
    ranks = engine.ranks or default_ranks(engine)
    if engine.precision != "auto":
        return ranks, engine.precision
    return ranks, "bf16" if _device_type(config) == "cuda" else "fp32"


def _device_type(config: RunConfig) -> str:
    import torch

    wanted = config.engine.device
    return wanted if wanted != "auto" else "cuda" if torch.cuda.is_available() else "cpu"


def _unset_ranks(config: RunConfig) -> Iterator[Problem]:
    if config.engine.ranks is not None:
        return
    ranks = default_ranks(config.engine)
    fitting = nearest_ranks(config, ranks)
    if fitting is not None and fitting != ranks:
        started = f"`megamodel train` starts {ranks} rank{'s' if ranks > 1 else ''} on this machine"
        remedy = f"set engine.ranks={fitting} or start the ranks with torchrun"
        yield note("engine.ranks", f"is unset: {started}, which this layout does not fit; {remedy}")


def _raw_keys(config: RunConfig) -> Iterator[Problem]:
    from launcher.engines.deepspeed_package import load_package, refusal

    ranks, precision = ranks_and_precision(config)
    for contradiction in contradictions(config, ranks, precision):
        yield note(_RAW, contradiction.message)
    try:
        load_package(_device_type(config))
    except UserError:
        yield note(_RAW, "whether DeepSpeed takes these keys is unknown: the package deepspeed is not installed here")
        return
    why = refusal(deepspeed_json(config, ranks, precision), config.engine.deepspeed.raw)
    if why is not None:
        yield error(_RAW, f"DeepSpeed does not take it: {why}")
