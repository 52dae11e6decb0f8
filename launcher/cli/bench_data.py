"""`megamodel bench data`: what a core makes of raw text."""

import json
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from launcher.errors import UserError


def data(
    megabytes: Annotated[int, typer.Option(min=10, help="Text to make shards of; a tenth of it is cleaned.")] = 200,
    tokenizer: Annotated[
        Path | None, typer.Option(help="Folder of a tokenizer; unset: one of 32,000 words is trained first.")
    ] = None,
    against: Annotated[str | None, typer.Option(help="`datatrove`: let it do the same, in the same run.")] = None,
    python: Annotated[
        str | None, typer.Option(help="Interpreter of an environment with datatrove[processing] and nltk.")
    ] = None,
    folder: Annotated[Path | None, typer.Option(help="Where to work; unset: where temporary files go.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """One core from jsonl to shards: plainly, and with quality rules, MinHash and exact comparison.

    The corpus is made of random paragraphs of the sample. Megabytes are of text, a second is one of the processor,
    without the loading of the vocabulary on either side.
    """
    from tools.bench.data import measure_data

    if against not in (None, "datatrove"):
        raise UserError(f"--against {against}: only datatrove can be measured against.")
    if against and not python:
        raise UserError("--against datatrove needs --python, an interpreter that has datatrove: it pins old libraries.")
    found = measure_data(megabytes, tokenizer, python if against else None, folder)
    options = ["--megabytes", str(megabytes), *(["--tokenizer", str(tokenizer)] if tokenizer else [])]
    options += ["--against", "datatrove", "--python", str(python)] if against else []
    command = shlex.join(["megamodel", "bench", "data", *options])
    if as_json:
        typer.echo(json.dumps({"workloads": found, "command": command}))
    else:
        _show(found, command)


def _show(found: list[dict[str, Any]], command: str) -> None:
    from rich.console import Console
    from rich.table import Column, Table

    table = Table("workload", "stage", *(Column(name, justify="right") for name in ("seconds", "MB/s", "times")))
    for row in found:
        size = row["megabytes"]
        for stage, seconds in row["ours"]["stages"].items():
            table.add_row(row["workload"], stage, f"{seconds:.2f}", f"{size / max(seconds, 1e-9):,.0f}", "")
        for who in ("ours", "theirs"):
            if who in row:
                times = f"{row['times']:.1f}" if who == "ours" and "times" in row else ""
                rate = f"{row[who]['megabytes_per_cpu_second']:.2f}"
                table.add_row(row["workload"], f"all, {who} (CPU)", f"{row[who]['cpu_seconds']:.2f}", rate, times)
        table.add_section()
    Console().print(table)
    for row in found:
        if "theirs" in row:
            same = ""
            if "identical_bytes" in row:
                same = ", identical bytes" if row["identical_bytes"] else ", DIFFERENT BYTES"
            ours, theirs = row["documents"]
            typer.echo(f"{row['workload']}: {ours:,} documents in our shards, {theirs:,} in datatrove's{same}")
    typer.echo(f"again: {command}")
