"""`megamodel verify resume`."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tools.verify.resume import Comparison


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    group = typer.Typer(no_args_is_help=True, help="Prove the promises on a configuration of your own.")
    group.command(name="resume")(resume)
    group.callback()(lambda: None)
    app.add_typer(group, name="verify")


def resume(
    config: Annotated[Path, typer.Argument(help="Run configuration (YAML).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to override.")
    ] = None,
    kills: Annotated[int, typer.Option(min=1, help="How often the run is killed.")] = 3,
    seed: Annotated[int, typer.Option(help="Seeds the moments of the kills.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder for the runs; default: RUN_DIR.verify-resume.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the table as JSON.")] = False,
) -> None:
    """Kill a run with SIGKILL at random moments and resume it, also at other rank counts; compare every step.

    The samples of each step must be equal; the losses bit for bit where the layout is unchanged, to rounding where not.
    """
    from launcher.config import RunConfig
    from launcher.errors import CheckFailed, UserError
    from launcher.physics import require
    from launcher.yaml_config import load
    from tools.verify.resume import ResumeCheck

    loaded = load(config, RunConfig, overrides or [])
    require(loaded)
    folder = out or loaded.value.run_dir.with_name(f"{loaded.value.run_dir.name}.verify-resume")
    if folder.exists():
        if not (folder / "logs").is_dir():
            raise UserError(f"{folder} exists and is not from an earlier verification; give another --out")
        shutil.rmtree(folder)
    comparisons = ResumeCheck(config, loaded.value, overrides or [], folder, kills, seed).run()
    if as_json:
        typer.echo(json.dumps([{**asdict(c), "passed": c.passed} for c in comparisons]))
    else:
        _print(comparisons)
    if not all(comparison.passed for comparison in comparisons):
        raise CheckFailed(f"a resumed run is not the undisturbed run; everything to look at is in {folder}")


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
