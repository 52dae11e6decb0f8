"""Layouts by name: what `--layouts` takes, and the settings that each name stands for."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from launcher.errors import UserError

if TYPE_CHECKING:  # the command line's help shows the names, and need not wait for pydantic and torch
    from launcher.config import EngineConfig, TrainConfig

GRAMMAR = (
    "a layout is single, ddpN, zero1xN, zero2xN or zero3xN (-offload behind it: to the CPU), or one or more of fsdpN, "
    "hsdpRxS, tpN, ppN[-1f1b|-interleaved|-zbv] and cpN[-ring|-ulysses] joined by '-'; N are numbers of ranks, "
    "hsdp has R replicas of S shards; such as tp2-fsdp2 or pp4-zbv-tp2"
)
"""The names, in words."""

DEFAULT = [
    "single",
    "ddp2",
    "fsdp2",
    "fsdp4",
    "hsdp2x2",
    "zero1x2",
    "zero2x2",
    "zero3x2",
    "zero3x4-offload",
    "tp2",
    "tp2-fsdp2",
    "pp2-1f1b",
    "pp2-interleaved",
    "pp2-zbv",
    "pp2-tp2",
    "cp2-ring",
    "cp2-ulysses",
    "cp2-ring-fsdp2",
    "cp2-ulysses-fsdp2",
    "pp2-tp2-fsdp2",
]
"""What is tried when no layout is named, as far as the machine holds it."""

ON_ONE_RANK = ("single", "ddp1", "fsdp1", "zero1x1", "zero2x1", "zero3x1")
"""What is tried instead where only one rank fits: the engines' own arithmetic, without the wires."""

MOST_RANKS_ON_CPU = 8
"""Ranks that share a machine's cores; on GPUs each has one of its own."""

_NEUTRAL = {
    "engine.name": "fsdp",
    "engine.zero_stage": "null",
    "engine.deepspeed.offload_optimizer": "none",
    "engine.deepspeed.offload_parameters": "none",
    "parallel.dp_replicate": "1",
    "parallel.dp_shard": "null",
    "parallel.tp": "1",
    "parallel.pp": "1",
    "parallel.pp_schedule": "1f1b",
    "parallel.pp_stages_per_rank": "2",
    "parallel.cp": "1",
    "parallel.cp_method": "ring",
}
"""Every setting that chooses a layout, so that none of the configuration's own is left."""

_SCHEDULES = {"1f1b": "1f1b", "interleaved": "interleaved_1f1b", "zbv": "zbv"}


@dataclass(frozen=True)
class NamedLayout:
    """A layout: its name, its ranks, how many of them read different samples, and the settings that it differs in."""

    name: str
    ranks: int
    data_ranks: int = 1
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def overrides(self) -> list[str]:
        """Arguments that select the layout, whatever layout the configuration selects."""
        return [f"{key}={value}" for key, value in {**_NEUTRAL, **self.settings}.items()] + [
            f"engine.ranks={self.ranks}"
        ]

    @property
    def stages(self) -> int:
        """Consecutive parts that the model is cut into; 1 without a pipeline."""
        several = self.settings.get("parallel.pp_schedule", "1f1b") != "1f1b"
        return int(self.settings.get("parallel.pp", 1)) * (2 if several else 1)

    def micro_batch_size(self, train: "TrainConfig") -> int:
        """The configured size, or the largest below it with which every rank of the layout has work.

        The global batch must be a whole number of micro-batches on each data rank, and a pipeline wants one for each
        stage, in whole rounds of its ranks. Where no size does, it is the configured one, for the product to refuse.
        """
        share, rest = divmod(train.global_batch_size, self.data_ranks)
        pipeline = int(self.settings.get("parallel.pp", 1))
        for size in range(train.micro_batch_size, 0, -1):
            count = share // size
            if rest == share % size == count % pipeline == 0 and count >= self.stages:
                return size
        return train.micro_batch_size


def parse_layouts(text: str) -> list[NamedLayout]:
    """The layouts of a comma-separated list of names; UserError that explains the names for one that is none."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f"--layouts names none; {GRAMMAR}")
    return [parse_layout(name) for name in dict.fromkeys(names)]


def default_layouts(most: int) -> list[NamedLayout]:
    """The layouts to try on a machine that holds `most` ranks."""
    names = DEFAULT if most > 1 else ON_ONE_RANK
    return [layout for layout in map(parse_layout, names) if layout.ranks <= most]


def most_ranks(engine: "EngineConfig") -> int:
    """Ranks that this machine holds: one for each GPU where the run computes on GPUs."""
    import torch

    on_gpu = engine.device == "cuda" or (engine.device == "auto" and torch.cuda.is_available())
    return max(1, torch.cuda.device_count()) if on_gpu else MOST_RANKS_ON_CPU


def parse_layout(name: str) -> NamedLayout:
    """The layout of a name; see GRAMMAR."""
    if name == "single":
        return NamedLayout(name, 1, settings={"engine.name": "single"})
    if found := re.fullmatch(r"ddp([1-9]\d*)", name):
        ranks = int(found[1])
        return NamedLayout(name, ranks, ranks, {"engine.name": "ddp"})
    if found := re.fullmatch(r"zero([123])x([1-9]\d*)(-offload)?", name):
        stage, ranks = int(found[1]), int(found[2])
        settings = {"engine.name": "deepspeed", "engine.zero_stage": str(stage)}
        if found[3]:
            settings["engine.deepspeed.offload_optimizer"] = "cpu"
            settings["engine.deepspeed.offload_parameters"] = "cpu" if stage == 3 else "none"
        return NamedLayout(name, ranks, ranks, settings)
    return _cuts(name)


def _cuts(name: str) -> NamedLayout:
    """A layout of the engine fsdp, from the cuts that its name joins."""
    cuts = _read_cuts(name)
    sizes = {axis: int(cuts.get(axis, 1)) for axis in ("dp_replicate", "dp_shard", "tp", "pp", "cp")}
    settings = {f"parallel.{axis}": str(size) for axis, size in sizes.items()}
    settings["parallel.pp_schedule"] = _SCHEDULES[cuts.get("schedule", "1f1b")]
    settings["parallel.cp_method"] = cuts.get("method", "ring")
    return NamedLayout(name, math.prod(sizes.values()), sizes["dp_replicate"] * sizes["dp_shard"], settings)


_N = r"[1-9]\d{0,5}"
_CUTS = [
    re.compile(rf"{cut}(?:-(?=.)|$)")
    for cut in (
        rf"fsdp(?P<dp_shard>{_N})",
        rf"hsdp(?P<dp_replicate>{_N})x(?P<dp_shard>{_N})",
        rf"tp(?P<tp>{_N})",
        rf"pp(?P<pp>{_N})(?:-(?P<schedule>{'|'.join(_SCHEDULES)}))?",
        rf"cp(?P<cp>{_N})(?:-(?P<method>ring|ulysses))?",
    )
]


def _read_cuts(name: str) -> dict[str, str]:
    """Axes, schedule and method as the name says them."""
    cuts: dict[str, str] = {}
    rest = name
    while rest or not cuts:
        found = next((match for cut in _CUTS if (match := cut.match(rest))), None)
        if found is None:
            raise UserError(f"there is no layout {name!r}; {GRAMMAR}")
        if cuts.keys() & found.groupdict().keys():
            raise UserError(f"the layout {name!r} names one cut twice; name each cut once")
        cuts |= {key: value for key, value in found.groupdict().items() if value}
        rest = rest[found.end() :]
    return cuts
