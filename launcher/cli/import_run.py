"""`megamodel import`: a checkpoint of other software becomes a run that goes on."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from tools.convert.import_run import Imported


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command("import")(import_command)


def import_command(
    source: Annotated[
        Path,
        typer.Argument(help="Folder of DeepSpeed (ZeRO 1, 2, 3 or universal) or of torch.distributed.checkpoint."),
    ],
    out: Annotated[Path, typer.Argument(help="Run folder to make.")],
    config: Annotated[Path, typer.Option(help="Configuration of the run; its model has the source's shapes.")],
    step: Annotated[int | None, typer.Option(min=0, help="Step to go on from; the source's if not given.")] = None,
    weights_only: Annotated[bool, typer.Option("--weights-only", help="Leave the optimizer's state behind.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Read weights, moments and step into a run folder, without DeepSpeed and without running code of the files.

    Names may be ours, Hugging Face's (Llama, GPT-2) or torchtitan's, behind any common prefix. Then continue with
    `megamodel train CONFIG run_dir=OUT`.
    """
    from tools.convert.import_run import import_run

    done = import_run(source, out, config, step, weights_only)
    if as_json:
        typer.echo(json.dumps(asdict(done), default=str))
    else:
        _show(done)


def _show(done: "Imported") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("source", "names", "parameters", "step", "optimizer updates")
    updates = "none" if done.optimizer_updates is None else str(done.optimizer_updates)
    table.add_row(done.kind, done.names, f"{done.parameters:,}", str(done.step), updates)
    for note in done.notes:
        typer.echo(f"note: {note}", err=True)
    Console().print(table)
    typer.echo(f"{done.out}: {done.bytes / 1e6:.1f} MB, read back and whole; go on with `megamodel train` and run_dir")
