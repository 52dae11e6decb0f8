"""Promise 1, tried on a configuration: a killed run goes on with the same samples and the same numbers."""

import os
import random
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from launcher.cluster.ranks import choose_device, compute_dtype
from launcher.config import RunConfig
from launcher.errors import CheckFailed, UserError
from launcher.monitor.events import read_events, read_json_lines
from launcher.train.run_folder import RunFolder
from launcher.train.start import default_ranks
from megamodel.checkpoint import list_checkpoints
from tools.verify.process import TrainingProcess

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Relative difference of a loss allowed where the layout changed: sums are taken in another order, and each rounds at
2^-24 (fp32) or, in activations, 2^-8 (bf16); a few steps of training amplify that."""

STEPS_AFTER_CHANGE = 10
"""Steps compared after a change of layout: training multiplies a rounding by ten every few steps."""


@dataclass(frozen=True)
class Layout:
    """An engine on a number of ranks."""

    engine: str
    ranks: int

    def overrides(self) -> list[str]:
        """The settings that select it, for data parallel layouts without replicas."""
        return [
            f"engine.name={self.engine}",
            f"engine.ranks={self.ranks}",
            "parallel.dp_replicate=1",
            "parallel.dp_shard=null",
        ]

    def fits(self, micro_batches: int, most: int) -> bool:
        """True when its ranks share the global batch's micro-batches evenly and are not too many."""
        return micro_batches % self.ranks == 0 and self.ranks <= most

    def __str__(self) -> str:
        return f"{self.engine} x {self.ranks}"


@dataclass(frozen=True)
class Comparison:
    """One run held against the uninterrupted one."""

    layout: str
    history: str
    steps: int
    same_samples: bool
    max_difference: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Same samples at every step, and losses within the tolerance (0: bit for bit)."""
        return self.steps > 0 and self.same_samples and self.max_difference <= self.tolerance


class ResumeCheck:
    """Runs CONFIG undisturbed, then killed and resumed, then resumed in other layouts; everything lies in `out`."""

    def __init__(
        self, path: Path, config: RunConfig, overrides: Sequence[str], out: Path, kills: int, seed: int
    ) -> None:
        self.path, self.config, self.out, self.kills = path, config, out, kills
        self.chance = random.Random(seed)
        self.last_step = min(config.train.steps, config.train.stop_at_step or config.train.steps)
        if self.last_step < kills + 2:
            raise UserError(f"{self.last_step} steps are too few for {kills} kills; give at least {kills + 2} steps")
        every = min(config.checkpoint.every_steps, max(1, self.last_step // (kills + 2)))
        # Saving more often changes no number of the training; permanent checkpoints would not fit the shorter interval.
        saving = [f"checkpoint.every_steps={every}", "checkpoint.permanent_every_steps=null"]
        saving += ["engine.deterministic=true"]
        self.overrides = [*overrides, *saving]

    def run(self) -> list[Comparison]:
        """Do all of it; raises CheckFailed when a training command fails."""
        self.out.mkdir(parents=True, exist_ok=True)
        reference = self._reference()
        comparisons = [self._killed(reference)]
        base = self._checkpoint_in_the_middle()
        comparisons += [self._resumed_as(layout, base, reference) for layout in self._other_layouts()]
        return comparisons

    def _start(self, name: str, extra: Sequence[str] = ()) -> TrainingProcess:
        return TrainingProcess(self.path, [*self.overrides, *extra], self.out / name, self.out / "logs" / f"{name}.log")

    def _reference(self) -> dict[int, dict[str, Any]]:
        _say(f"the undisturbed run: {self.last_step} steps")
        self._start("reference").wait()
        return _lines(self.out / "reference")

    def _killed(self, reference: dict[int, dict[str, Any]]) -> Comparison:
        targets = sorted(self.chance.sample(range(1, self.last_step), self.kills))
        killed = []
        for target in targets:
            _say(f"the disturbed run: SIGKILL at a random moment after step {target}")
            step = self._start("killed").kill_at(target, self.chance)
            if step is not None and step < self.last_step:
                killed.append(step)
        if len(killed) < self.kills:
            raise CheckFailed(
                f"only {len(killed)} of {self.kills} kills came before the last step, so they prove too little: "
                f"the run of {self.last_step} steps is too quick; give it more steps"
            )
        _say("the disturbed run: to its end")
        self._start("killed").wait()
        resumed = [e["step"] for e in read_events(RunFolder(self.out / "killed").events) if e["event"] == "resumed"]
        history = f"killed after step {_join(killed)}; resumed from step {_join(resumed)}"
        return self._compare("as configured", history, _lines(self.out / "killed"), reference, 0.0)

    def _checkpoint_in_the_middle(self) -> Path:
        """A run folder that stands, in the configured layout, some steps before its end."""
        middle = max(1, self.last_step - STEPS_AFTER_CHANGE)
        folder = self.out / "middle"
        _say(f"a run in the configured layout to step {middle}, to resume in others")
        self._start("middle", [f"train.stop_at_step={middle}"]).wait()
        return folder

    def _other_layouts(self) -> list[Layout]:
        batch, micro = self.config.train.global_batch_size, self.config.train.micro_batch_size
        engine = self.config.engine
        ranks = engine.ranks or default_ranks(engine)
        # A layout moves to the CPU when there are fewer GPUs than ranks, and then it is another computation.
        most = torch.cuda.device_count() if choose_device(engine, 0, ranks).type == "cuda" else 4
        candidates = [Layout("single", 1), Layout("ddp", 2), *(Layout("fsdp", n) for n in (1, 2, 4))]
        return [c for c in candidates if c != Layout(engine.name, ranks) and c.fits(batch // micro, most)]

    def _resumed_as(self, layout: Layout, base: Path, reference: dict[int, dict[str, Any]]) -> Comparison:
        _say(f"resumed as {layout}")
        name = f"resumed_{layout.engine}_{layout.ranks}"
        shutil.rmtree(self.out / name, ignore_errors=True)
        shutil.copytree(base, self.out / name, copy_function=_link_or_copy)
        start = list_checkpoints(base / "checkpoints")[-1][0]
        self._start(name, layout.overrides()).wait()
        after = {step: line for step, line in _lines(self.out / name).items() if step > start}
        tolerance = TOLERANCE[compute_dtype(self.config.engine, choose_device(self.config.engine, 0, 1))]
        return self._compare(str(layout), f"resumed from step {start}", after, reference, tolerance)

    def _compare(
        self,
        layout: str,
        history: str,
        lines: dict[int, dict[str, Any]],
        reference: dict[int, dict[str, Any]],
        tolerance: float,
    ) -> Comparison:
        expected = {step for step in reference if step >= min(lines, default=0)}
        same_samples = lines.keys() == expected and all(
            line["samples_digest"] == reference[step]["samples_digest"] for step, line in lines.items()
        )
        differences = [
            abs(line["loss"] - reference[step]["loss"]) / abs(reference[step]["loss"])
            for step, line in lines.items()
            if step in reference
        ]
        return Comparison(layout, history, len(lines), same_samples, max(differences, default=0.0), tolerance)


def _say(text: str) -> None:
    """Progress, apart from the table that is the answer."""
    print(text, file=sys.stderr, flush=True)


def _lines(run: Path) -> dict[int, dict[str, Any]]:
    return {line["step"]: line for line in read_json_lines(RunFolder(run).metrics)}


def _join(steps: Sequence[int]) -> str:
    return ", ".join(map(str, steps)) or "none"


def _link_or_copy(source: str, target: str) -> None:
    """Checkpoint files never change, so a link will do; what a run appends to is copied."""
    if Path(source).suffix == ".safetensors":
        os.link(source, target)
    else:
        shutil.copy2(source, target)
