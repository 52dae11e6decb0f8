"""`megamodel export`: a trained model for other software, proved before it is handed out."""

import json
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tools.convert.export import Exported


class Format(StrEnum):
    """Formats that a model can be exported to."""

    HF = "hf"


class Dtype(StrEnum):
    """Types of the exported weights."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command("export")(export)


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a training run (or an export, to convert it again).")],
    out: Annotated[Path, typer.Argument(help="Folder to make.")],
    format: Annotated[Format, typer.Option("--format", help="hf: what transformers loads.")] = Format.HF,
    step: Annotated[int | None, typer.Option(help="Checkpoint to take; the newest good one if not given.")] = None,
    dtype: Annotated[Dtype, typer.Option(help="Type of the weights.")] = Dtype.FLOAT32,
    force: Annotated[bool, typer.Option("--force", help="Replace an export that stands there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Write a Hugging Face folder, reload it with transformers and compare logits; a mismatch leaves no folder."""
    from tools.convert.export import export_hf

    done = export_hf(run, out, step, dtype.value, force)
    if as_json:
        typer.echo(json.dumps(asdict(done), default=str))
    else:
        _show(done)


def _show(done: "Exported") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "checked", "compared", "largest difference", "allowed", title=f"with transformers {done.transformers}"
    )
    for check in done.checks:
        numbers = (f"{x:.1e}" if x is not None else "equal" for x in (check.difference, check.tolerance))
        table.add_row(check.name, check.compared, *numbers)
    for note in done.notes:
        typer.echo(f"note: {note}", err=True)
    Console().print(table)
    typer.echo(
        f"{done.out}: {done.source} as {done.family}, {done.dtype}, {done.bytes / 1e6:.1f} MB; every check agrees"
    )
