"""Two runs of one configuration, held against each other: what they started from, what they saw, what they learned."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from launcher.errors import CheckFailed
from launcher.monitor.events import read_events, read_json_lines
from launcher.train.run_folder import RunFolder
from megamodel.checkpoint import checkpoint_name
from megamodel.checkpoint.read import read_tensors
from megamodel.optim.adamw import MOMENTS, state_key


@dataclass(frozen=True)
class Tolerances:
    """Relative differences that another layout may make over some ten steps."""

    loss: float
    grad_norm: float
    weights: float
    moments: float


TOLERANCES = {
    torch.float32: Tolerances(loss=1e-5, grad_norm=1e-4, weights=1e-4, moments=1e-3),
    torch.bfloat16: Tolerances(loss=5e-3, grad_norm=1e-1, weights=2e-1, moments=5e-1),
}
"""By compute type. Ten to a hundred times what small models show, and far below what a mistake does.

- loss: another layout takes the same sums in another order, and each rounds at 2^-24 (fp32) or, in activations, 2^-8
  (bf16). The mean over thousands of tokens keeps 1e-7 of it in fp32 and 5e-4 in bf16; training amplifies it.
- grad_norm: one number for the whole gradient, and the first that shows one part of it scaled wrongly. In fp32 it
  agrees to 1e-6, in bf16, where each layout rounds gradients at other places, to 3e-2.
- weights: AdamW divides a gradient by its own size, so where one is hardly more than its rounding the update goes
  another way, by up to the learning rate. The root mean square over a tensor keeps such elements in proportion.
- moments: sums of gradients, so each tensor shows its own gradient's error without that division; the second is of
  squares, which doubles it.
"""

ROUNDING = 1e-6
"""A tensor whose mean gradient is smaller than this part of the largest tensor's has no gradient but rounding."""


@dataclass(frozen=True)
class Furthest:
    """The tensor that differs most: root mean square of the difference over that of the tensor itself."""

    difference: float = 0.0
    tensor: str = ""


@dataclass(frozen=True)
class Differences:
    """What a layout's run differs in from the reference; NaN where there is nothing to compare."""

    same_start: bool
    same_samples: bool
    first_losses: list[float]
    first_grad_norms: list[float]
    """Of its first three steps."""
    loss: float
    grad_norm: float
    weights: Furthest
    moments: Furthest
    not_judged: list[str]
    """Parameters whose gradient is nothing but rounding, which AdamW turns into steps of the learning rate's size.

    The key bias of attention without rotary positions is one: softmax does not see a constant added to all scores.
    """

    def faults(self, allowed: Tolerances) -> list[str]:
        """What is not the same training, in words; none when all is."""
        found = [] if self.same_start else ["other starting weights"]
        found += [] if self.same_samples else ["other samples"]
        figures = {
            "loss": (self.loss, allowed.loss),
            "gradient norm": (self.grad_norm, allowed.grad_norm),
            f"weights ({self.weights.tensor})": (self.weights.difference, allowed.weights),
            f"moments ({self.moments.tensor})": (self.moments.difference, allowed.moments),
        }
        # `not <=` so that what is not a number is a fault too.
        return found + [f"{what} differs by {d:.1e}" for what, (d, most) in figures.items() if not d <= most]


def compare_runs(reference: Path, run: Path, steps: int) -> Differences:
    """Hold a run of `steps` steps, saved before the first and after the last, against the reference.

    Tensors are read one at a time from both checkpoints, so that two of them are in memory at once.
    """
    ours, theirs = _lines(run, steps), _lines(reference, steps)
    ends = _checkpoint(reference, steps), _checkpoint(run, steps)
    rounding = set.intersection(*(_only_rounding(end) for end in ends))
    return Differences(
        same_start=_same_start(_checkpoint(reference, 0), _checkpoint(run, 0)),
        same_samples=[line["samples_digest"] for line in ours] == [line["samples_digest"] for line in theirs],
        first_losses=[line["loss"] for line in ours[:3]],
        first_grad_norms=[line["grad_norm"] for line in ours[:3]],
        loss=_largest([*_relative(ours, theirs, "loss"), *_relative(ours, theirs, "validation_loss")]),
        grad_norm=_largest(_relative(ours, theirs, "grad_norm")),
        weights=_furthest(*ends, ["param"], rounding),
        moments=_furthest(*ends, MOMENTS, rounding),
        not_judged=sorted(rounding),
    )


def _lines(run: Path, steps: int) -> list[dict[str, Any]]:
    lines = read_json_lines(RunFolder(run).metrics)
    skipped = {event["step"] for event in read_events(RunFolder(run).events) if event["event"] == "skipped"}
    expected = [step for step in range(1, steps + 1) if step not in skipped]
    if [line["step"] for line in lines] != expected:
        raise CheckFailed(f"{run}: {len(lines)} steps were made instead of {len(expected)}")
    return lines


def _checkpoint(run: Path, step: int) -> Path:
    return RunFolder(run).checkpoints / checkpoint_name(step)


def _relative(ours: list[dict[str, Any]], theirs: list[dict[str, Any]], what: str) -> Iterator[float]:
    """Where the reference has the value; one that is not finite is null in the metrics."""
    for pair in ((our.get(what), their[what]) for our, their in zip(ours, theirs, strict=True) if what in their):
        yield math.nan if None in pair else _ratio(abs(pair[0] - pair[1]), abs(pair[1]))


def _largest(values: Iterable[float]) -> float:
    """The largest value; NaN when one is."""
    return max(values, key=lambda value: math.inf if math.isnan(value) else value)


def _ratio(difference: float, scale: float) -> float:
    return 0.0 if difference == 0 else math.inf if scale == 0 else difference / scale


def _same_start(reference: Path, run: Path) -> bool:
    """True when two checkpoints hold the same weights, bit for bit."""
    pairs = _pairs(reference, run, state_key("param", ""))
    return all(torch.equal(a.view(torch.int32), b.view(torch.int32)) for _, a, b in pairs)


def _pairs(reference: Path, run: Path, prefix: str) -> Iterator[tuple[str, Tensor, Tensor]]:
    for (name, a), (_, b) in zip(read_tensors(reference, prefix), read_tensors(run, prefix), strict=True):
        yield name.removeprefix(prefix), a, b


def _rms(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(value, dtype=torch.float64)) / math.sqrt(value.numel())


def _only_rounding(checkpoint: Path) -> set[str]:
    """Parameters with a gradient, but one less than ROUNDING of the largest: nothing but rounding moves them."""
    prefix = state_key(MOMENTS[0], "")
    sizes = {name.removeprefix(prefix): _rms(value) for name, value in read_tensors(checkpoint, prefix)}
    return {name for name, size in sizes.items() if 0 < size < ROUNDING * max(sizes.values())}


def _furthest(reference: Path, run: Path, kinds: Iterable[str], passed_over: set[str]) -> Furthest:
    """The tensor of these kinds that differs most."""
    differences = [
        Furthest(_ratio(_rms(b - a), _rms(a)), name if kind == "param" else state_key(kind, name))
        for kind in kinds
        for name, a, b in _pairs(reference, run, state_key(kind, ""))
        if name not in passed_over
    ]
    return max(differences, key=lambda f: math.inf if math.isnan(f.difference) else f.difference)
