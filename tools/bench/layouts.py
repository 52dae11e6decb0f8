"""Each layout on this machine: the time of a step, the memory of a rank, the bytes on each axis."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher.config import RunConfig
from launcher.engine_checks import engine_problems
from launcher.errors import CheckFailed
from launcher.layout_checks import layout_problems
from launcher.yaml_config import load
from tools.verify.layouts import NamedLayout, parse_layout
from tools.verify.progress import shown


@dataclass(frozen=True)
class Measured:
    """What one layout's ranks found; the figures are empty when it was refused."""

    layout: str
    ranks: int
    micro_batch_size: int
    milliseconds: float = 0.0
    """Of the slowest rank's median step."""
    ratio: float = 0.0
    """To the step of one process on the same global batch."""
    peak_bytes: int = 0
    """Of the rank that took most, beyond interpreter and libraries."""
    sent: dict[str, dict[str, dict[str, float]]] | None = None
    """Calls and bytes of a step by axis and kind of collective, each of the rank that sent most."""
    refused: str = ""
    """Why the product does not start it."""

    @property
    def bytes_by_axis(self) -> dict[str, float]:
        """Bytes sent on each axis."""
        return {axis: sum(kind["bytes"] for kind in kinds.values()) for axis, kinds in (self.sent or {}).items()}


def measure_layouts(
    path: Path, config: RunConfig, overrides: Sequence[str], layouts: Sequence[NamedLayout], rounds: int
) -> list[Measured]:
    """Measure `single`, which the others are compared with, and each layout; CheckFailed when one's ranks fail."""
    found: list[Measured] = []
    single = parse_layout("single")
    for layout in shown(
        [single, *(lay for lay in layouts if lay != single)], lambda lay: f"{lay.name}: {rounds} steps"
    ):
        micro = layout.micro_batch_size(config.train)
        settings = [*overrides, *layout.overrides, f"train.micro_batch_size={micro}"]
        refused = "; ".join(problems(load(path, RunConfig, settings).value, layout.ranks))
        if refused:
            found.append(Measured(layout.name, layout.ranks, micro, refused=refused))
            continue
        with tempfile.TemporaryDirectory(prefix="megamodel-bench-") as folder:
            ranks = run_ranks("step", rounds, path, settings, layout.ranks, Path(folder))
        seconds = max(rank["seconds"] for rank in ranks)
        milliseconds = 1e3 * seconds
        ratio = milliseconds / (found[0].milliseconds if found else milliseconds)
        peak = max(rank["peak_bytes"] for rank in ranks)
        found.append(Measured(layout.name, layout.ranks, micro, milliseconds, ratio, peak, _most(ranks)))
    return found


def problems(config: RunConfig, ranks: int) -> Iterator[str]:
    """What keeps so many ranks from training this model in this layout."""
    for problem in (*layout_problems(config, ranks), *engine_problems(config)):
        if problem.severity == "error":
            yield f"{problem.setting}: {problem.message}"


def run_ranks(
    what: str, rounds: int, path: Path, overrides: Sequence[str], ranks: int, out: Path
) -> list[dict[str, Any]]:
    """Start ranks that measure themselves into the folder `out`; return what each found.

    Raises CheckFailed with the end of their log when they fail.
    """
    log = out / "log"
    command = [sys.executable, "-m", "tools.bench.rank", what, str(rounds), str(out), str(path), *overrides]
    with log.open("wb") as output:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        raise CheckFailed(f"{ranks} ranks could not be measured (exit code {done.returncode}):\n{tail}")
    return [json.loads((out / f"rank_{rank}.json").read_text()) for rank in range(ranks)]


def _most(ranks: Sequence[dict[str, Any]]) -> dict[str, dict[str, dict[str, float]]]:
    """For each axis and kind, the figures of the rank that sent most."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for rank in ranks:
        for axis, kinds in rank["sent"].items():
            for kind, figures in kinds.items():
                known = found.setdefault(axis, {}).setdefault(kind, figures)
                if figures["bytes"] > known["bytes"]:
                    found[axis][kind] = figures
    return found
