"""`megamodel inspect ...`: open a step of a run, or find a document in it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    sub = typer.Typer(no_args_is_help=True, help="Which documents a step holds, and which steps hold a document.")
    sub.command("batch")(batch)
    sub.command("where")(where)
    app.add_typer(sub, name="inspect")


def batch(
    run: Run,
    step: Annotated[int, typer.Option(help="The step, counted from 1; it need not have run yet.")],
    as_json: AsJson = False,
) -> None:
    """Show which documents, from which files, are in a step, decoded."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from tools.inspect.batch import describe_step

    found = describe_step(run, step)
    if as_json:
        typer.echo(json.dumps(found, ensure_ascii=False))
        return
    pieces = found["pieces"]
    table = Table(
        *(Column(name, overflow="fold") for name in ("sequence", "tokens", "document", "file:record", "text"))
    )
    for piece in pieces:
        first, end = piece["tokens_in_sequence"]
        place = f"{Path(piece['source']).name}:{piece['record']}"
        text = f"(skipped) {piece['text']}" if piece["skipped"] else piece["text"]
        row = (str(piece["sequence"]), f"{first}-{end}", piece["id"] or "(file gone)", place, text)
        table.add_row(*map(Text, row))
    Console().print(table)
    skipped = ", makes no update (data.skip.steps)" if found["skipped"] else ""
    typer.echo(f"step {step}: {len(pieces)} pieces of documents, samples_digest {found['samples_digest']}{skipped}")


def where(
    run: Run,
    doc: Annotated[str, typer.Option(help="The document's id, or FILE:RECORD.")],
    as_json: AsJson = False,
) -> None:
    """Show in which steps of the run's schedule a document was or will be."""
    from rich.console import Console
    from rich.table import Column, Table

    from tools.inspect.batch import find_document

    visits = find_document(run, doc)
    if as_json:
        typer.echo(json.dumps({"document": doc, "visits": [asdict(visit) for visit in visits]}, ensure_ascii=False))
        return
    table = Table(*(Column(name, overflow="fold") for name in ("step", "sequence", "epoch", "shard set", "window")))
    for visit in visits:
        step = f"{visit.step} (skipped)" if visit.skipped else str(visit.step)
        table.add_row(step, str(visit.sequence), str(visit.epoch), visit.shards, str(visit.window))
    Console().print(table)
    steps = len({visit.step for visit in visits})
    typer.echo(f"{doc} is in {steps} of the run's steps." if visits else f"{doc} is in no step of this schedule.")
