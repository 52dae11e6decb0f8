"""`megamodel verify resume` and `megamodel verify parity`."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tools.verify.layouts import GRAMMAR

if TYPE_CHECKING:
    from rich.table import Table

    from tools.verify.compare import Differences, Tolerances
    from tools.verify.parity import Row
    from tools.verify.resume import Comparison

ConfigFile = Annotated[Path, typer.Argument(help="Run configuration (YAML).")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to override.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the table as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    group = typer.Typer(no_args_is_help=True, help="Prove the promises on a configuration of your own.")
    group.command(name="resume")(resume)
    group.command(name="parity")(parity)
    app.add_typer(group, name="verify")


def resume(
    config: ConfigFile,
    overrides: Overrides = None,
    kills: Annotated[int, typer.Option(min=1, help="How often the run is killed.")] = 3,
    seed: Annotated[int, typer.Option(help="Seeds the moments of the kills.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the runs; default: RUN_DIR.verify-resume.")] = None,
    as_json: AsJson = False,
) -> None:
    """Kill a run with SIGKILL at random moments and resume it, also at other rank counts; compare every step.

    The samples of each step must be equal; the losses bit for bit where the layout is unchanged, to rounding where not.
    """
    from launcher.config import RunConfig
    from launcher.errors import CheckFailed
    from launcher.physics import require
    from launcher.yaml_config import load
    from tools.verify.resume import ResumeCheck

    loaded = load(config, RunConfig, overrides or [])
    require(loaded)
    folder = _fresh(out or loaded.value.run_dir.with_name(f"{loaded.value.run_dir.name}.verify-resume"))
    comparisons = ResumeCheck(config, loaded.value, overrides or [], folder, kills, seed).run()
    if as_json:
        typer.echo(json.dumps([{**asdict(c), "passed": c.passed} for c in comparisons]))
    else:
        _print(comparisons)
    if not all(comparison.passed for comparison in comparisons):
        raise CheckFailed(f"a resumed run is not the undisturbed run; everything to look at is in {folder}")


def _fresh(folder: Path) -> Path:
    """The folder, without what an earlier verification left in it."""
    from launcher.errors import UserError

    if folder.exists():
        if not (folder / "logs").is_dir():
            raise UserError(f"{folder} exists and is not from an earlier verification; give another --out")
        shutil.rmtree(folder)
    return folder


def _print(comparisons: "list[Comparison]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="The same training after every interruption?")
    for column in ("layout", "what happened", "steps", "same samples", "largest relative loss difference", "verdict"):
        table.add_column(column)
    for c in comparisons:
        difference = (
            "0 (bit for bit)" if c.max_difference == 0 else f"{c.max_difference:.1e} (allowed {c.tolerance:.0e})"
        )
        same = "yes" if c.same_samples else "NO"
        table.add_row(c.layout, c.history, str(c.steps), same, difference, "passed" if c.passed else "FAILED")
    Console().print(table)


def parity(
    config: ConfigFile,
    overrides: Overrides = None,
    layouts: Annotated[
        str | None,
        typer.Option(help=f"Comma-separated names; default: those that this machine holds. In a name, {GRAMMAR}."),
    ] = None,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each run.")] = 10,
    out: Annotated[Path | None, typer.Option(help="Folder for the runs; default: RUN_DIR.verify-parity.")] = None,
    as_json: AsJson = False,
) -> None:
    """Train as one process and in each layout; compare the weights, losses, gradient norms and optimizer states.

    The starting weights must be equal bit for bit and the samples of each step too; the rest to rounding. A layout that
    the model or the machine cannot hold is shown as refused, and fails the check only when --layouts names it.
    """
    from launcher.config import RunConfig
    from launcher.errors import CheckFailed
    from launcher.yaml_config import load
    from tools.verify.layouts import parse_layouts
    from tools.verify.parity import ParityCheck

    run = load(config, RunConfig, overrides or []).value
    named = parse_layouts(layouts) if layouts is not None else None
    folder = _fresh(out or run.run_dir.with_name(f"{run.run_dir.name}.verify-parity"))
    check = ParityCheck(config, run, overrides or [], folder, named, steps)
    rows = check.run()
    if as_json:
        typer.echo(json.dumps([row.as_json() for row in rows]))
    else:
        _print_parity(rows, check.allowed)
    if not check.passed(rows):
        raise CheckFailed(f"not every layout is the same training; everything to look at is in {folder}")


def _print_parity(rows: "list[Row]", allowed: "Tolerances") -> None:
    from rich.console import Console

    console = Console()
    ran = [(row, row.differences) for row in rows if row.differences]
    if ran:
        console.print(_first_steps(ran))
    console.print(_differences(rows, allowed))
    for row in rows:
        if row.reason:
            console.print(f"{row.layout}: {row.reason}", markup=False, soft_wrap=True)


def _first_steps(ran: "list[tuple[Row, Differences]]") -> "Table":
    table = _plain_table("layout", "ranks", "micro-batch", "first losses", "gradient norms")
    for row, found in ran:
        figures = (" ".join(f"{value:.3f}" for value in v) for v in (found.first_losses, found.first_grad_norms))
        table.add_row(row.layout, str(row.ranks), str(row.micro_batch_size), *figures)
    return table


def _differences(rows: "list[Row]", allowed: "Tolerances") -> "Table":
    columns = ("layout", "start", "data", "loss", "grad norm", "weights", "moments", "verdict")
    table = _plain_table(*columns, title="Largest relative differences from the run of one process")
    for row in rows:
        verdict = row.verdict if row.verdict in ("same", "refused") else row.verdict.upper()
        table.add_row(row.layout, *(_figures(row.differences) if row.differences else [""] * 6), verdict)
    table.add_section()
    limits = (allowed.loss, allowed.grad_norm, allowed.weights, allowed.moments)
    table.add_row("allowed", "same", "same", *(f"{limit:.0e}" for limit in limits))
    return table


def _figures(found: "Differences") -> list[str]:
    values = (found.loss, found.grad_norm, found.weights.difference, found.moments.difference)
    same = ["same" if same else "OTHER" for same in (found.same_start, found.same_samples)]
    return [*same, *("0" if value == 0 else f"{value:.1e}" for value in values)]


def _plain_table(*columns: str, title: str | None = None) -> "Table":
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
