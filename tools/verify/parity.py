"""Promise 2, tried on a configuration: every layout that this machine holds is the same training as one process."""

import math
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from launcher.cluster.ranks import choose_device, compute_dtype
from launcher.config import RunConfig
from launcher.errors import CheckFailed, UserError
from launcher.train.run_folder import RunFolder
from tools.verify.compare import TOLERANCES, Differences, Tolerances, compare_runs
from tools.verify.layouts import NamedLayout, default_layouts, most_ranks, parse_layout
from tools.verify.process import TrainingProcess
from tools.verify.progress import shown

REFERENCE = "reference"
"""Folder of the one-process run, beside those of the layouts."""

Verdict = Literal["same", "different", "failed", "refused"]
"""failed: its training ended with an error; refused: the product does not start it on this model or machine."""


@dataclass(frozen=True)
class Row:
    """What one layout's run came to."""

    layout: str
    ranks: int
    micro_batch_size: int
    verdict: Verdict
    reason: str
    """Why it is not the same, or did not run; empty for the same."""
    differences: Differences | None

    def line(self) -> str:
        """The row in a line, for who does not wait for the table."""
        if self.differences is None:
            return f"{self.layout}: {self.verdict}: {self.reason}"
        return f"{self.layout}: {self.verdict}; loss within {self.differences.loss:.1e} {self.reason}".rstrip()

    def as_json(self) -> dict[str, Any]:
        """The row for `--json`; what is not a finite number becomes null."""
        return _finite(asdict(self))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class ParityCheck:
    """Runs CONFIG as one process, then in each layout, for `steps` steps; everything lies in `out`.

    Args:
        path, config, overrides: the configuration, its values, and the arguments that changed them.
        out: folder for the runs.
        layouts: those to try; None: those of the default list that the machine holds.
        steps: optimizer steps of each run.
    """

    def __init__(
        self,
        path: Path,
        config: RunConfig,
        overrides: Sequence[str],
        out: Path,
        layouts: Sequence[NamedLayout] | None = None,
        steps: int = 10,
    ) -> None:
        if config.train.steps < steps:
            raise UserError(f"train.steps={config.train.steps} is fewer than the {steps} to compare; lower --steps")
        self.path, self.config, self.out, self.steps = path, config, out, steps
        self.named = layouts is not None
        self.layouts = list(layouts) if layouts is not None else default_layouts(most_ranks(config.engine))
        self.overrides = [*overrides, *comparable(steps)]

    @property
    def allowed(self) -> Tolerances:
        """The tolerances of the run's compute type."""
        return TOLERANCES[compute_dtype(self.config.engine, choose_device(self.config.engine, 0, 1))]

    def run(self) -> list[Row]:
        """Do all of it; UserError or CheckFailed when the run of one process, which all are held against, fails."""
        self.out.mkdir(parents=True, exist_ok=True)
        rows = []
        reference = parse_layout("single")
        for name, layout in shown([(REFERENCE, reference), *((lay.name, lay) for lay in self.layouts)], self._describe):
            if name == REFERENCE:
                self._train(name, layout)
            else:
                rows.append(self._row(layout))
                print(rows[-1].line(), file=sys.stderr, flush=True)
        return rows

    def passed(self, rows: Sequence[Row]) -> bool:
        """True when every layout is the same training; one that is refused counts only when it was asked for."""
        return all(row.verdict == "same" or (row.verdict == "refused" and not self.named) for row in rows)

    def _describe(self, item: tuple[str, NamedLayout]) -> str:
        name, layout = item
        return f"{name}: {self.steps} steps on {layout.ranks} rank{'s' * (layout.ranks > 1)}"

    def _train(self, name: str, layout: NamedLayout) -> None:
        micro = f"train.micro_batch_size={layout.micro_batch_size(self.config.train)}"
        overrides = [*self.overrides, *layout.overrides, micro]
        TrainingProcess(self.path, overrides, self.out / name, self.out / "logs" / f"{name}.log").wait()

    def _row(self, layout: NamedLayout) -> Row:
        try:
            self._train(layout.name, layout)
            differences = compare_runs(self.out / REFERENCE, self.out / layout.name, self.steps)
        except CheckFailed as error:
            return self._make_row(layout, "failed", str(error))
        except UserError as error:
            return self._make_row(layout, "refused", str(error))
        if faults := differences.faults(self.allowed):
            return self._make_row(layout, "different", "; ".join(faults), differences)
        # There is nothing left to look into, and checkpoints are large.
        shutil.rmtree(RunFolder(self.out / layout.name).checkpoints)
        return self._make_row(layout, "same", "", differences)

    def _make_row(
        self, layout: NamedLayout, verdict: Verdict, reason: str, differences: Differences | None = None
    ) -> Row:
        micro_batch_size = layout.micro_batch_size(self.config.train)
        return Row(layout.name, layout.ranks, micro_batch_size, verdict, reason, differences)


def comparable(steps: int) -> list[str]:
    """The settings under which two runs can be compared: saved before the first step and after `steps`."""
    return [
        f"train.stop_at_step={steps}",
        "checkpoint.initial=true",
        f"checkpoint.every_steps={steps}",
        "checkpoint.keep=2",
        "checkpoint.permanent_every_steps=null",
        "engine.deterministic=true",
        "monitor.tensorboard=false",
    ]
