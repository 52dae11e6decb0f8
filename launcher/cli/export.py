"""`megamodel export`: a trained model for other software, proved before it is handed out."""

import json
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from launcher.errors import UserError

if TYPE_CHECKING:
    from tools.convert.check_hf import Check
    from tools.convert.export import Exported
    from tools.convert.export_deepspeed import ExportedUniversal


class Format(StrEnum):
    """Formats that a model can be exported to."""

    HF = "hf"
    DEEPSPEED = "deepspeed"


class Names(StrEnum):
    """Names of the parameters in an export for DeepSpeed."""

    OURS = "ours"
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
    format: Annotated[
        Format, typer.Option("--format", help="hf: what transformers loads; deepspeed: a universal checkpoint.")
    ] = Format.HF,
    step: Annotated[int | None, typer.Option(help="Checkpoint to take; the newest good one if not given.")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="hf: type of the weights (float32).")] = None,
    names: Annotated[
        Names | None, typer.Option(help="deepspeed: names in the module that loads, ours or transformers' (ours).")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an export that stands there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Write a model for other software, which loads it and agrees with ours; a mismatch leaves no folder.

    hf: a Hugging Face folder; transformers compares logits. deepspeed: weights, moments and step, from which plain
    DeepSpeed goes on with `"checkpoint": {"load_universal": true}`; engines of ZeRO 1 and 3 compare each bit.
    """
    _refuse_unused(format, dtype, names)
    if format is Format.HF:
        from tools.convert.export import export_hf

        done = export_hf(run, out, step, (dtype or Dtype.FLOAT32).value, force)
        _finish(done, as_json, _show)
    else:
        from tools.convert.export_deepspeed import export_deepspeed

        universal = export_deepspeed(run, out, step, (names or Names.OURS).value, force)
        _finish(universal, as_json, _show_universal)


def _refuse_unused(format: Format, dtype: Dtype | None, names: Names | None) -> None:
    if format is Format.DEEPSPEED and dtype is not None:
        raise UserError("--dtype is for --format hf; DeepSpeed's universal checkpoints hold fp32 masters.")
    if format is Format.HF and names is not None:
        raise UserError("--names is for --format deepspeed; Hugging Face's folders have the family's names.")


T = TypeVar("T", "Exported", "ExportedUniversal")


def _finish(done: T, as_json: bool, show: Callable[[T], None]) -> None:
    if as_json:
        typer.echo(json.dumps(asdict(done), default=str))
    else:
        for note in done.notes:
            typer.echo(f"note: {note}", err=True)
        show(done)


def _table(title: str, checks: "list[Check]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("checked", "compared", "largest difference", "allowed", title=title)
    for check in checks:
        numbers = (f"{x:.1e}" if x is not None else "equal" for x in (check.difference, check.tolerance))
        table.add_row(check.name, check.compared, *numbers)
    Console().print(table)


def _show(done: "Exported") -> None:
    _table(f"with transformers {done.transformers}", done.checks)
    typer.echo(
        f"{done.out}: {done.source} as {done.family}, {done.dtype}, {done.bytes / 1e6:.1f} MB; every check agrees"
    )


def _show_universal(done: "ExportedUniversal") -> None:
    _table(f"with DeepSpeed {done.deepspeed}", done.checks)
    typer.echo(
        f"{done.out}: {done.source}, step {done.step}, {done.names} names, {done.bytes / 1e6:.1f} MB; "
        "every check agrees"
    )
