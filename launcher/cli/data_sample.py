"""`megamodel data prepare CONFIG --sample N`: what the cleaning steps would do to some documents, and why."""

import dataclasses
import json
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from data_pipeline.clean.dry_run import DryRun, Example, StepOutcome
    from data_pipeline.config import PrepareConfig


def show_sample(config: "PrepareConfig", count: int, as_json: bool) -> None:
    """Clean a sample and print what happened: a row a step, and examples. Nothing is written."""
    from tools.inspect.cleaning import clean_sample

    run = clean_sample(config, count)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(run), ensure_ascii=False))
        return
    _print_table(run)
    if run.broken:
        typer.echo(f"Records that could not be read: {run.broken:,}. " + "; ".join(run.broken_examples[:3]) + ".")
    for outcome in run.steps:
        _print_examples(outcome)


def _print_table(run: "DryRun") -> None:
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    counts = (Column(name, justify="right") for name in ("seen", "changed", "rejected"))
    table = Table("step", *counts, "why rejected", title=_summary(run), title_justify="left")
    for outcome in run.steps:
        reasons = sorted(outcome.rejected.items(), key=lambda reason: (-reason[1], reason[0]))
        why = "\n".join(f"{number:,}  {reason}" for reason, number in reasons)
        numbers = (outcome.seen, outcome.changed, sum(outcome.rejected.values()))
        table.add_row(Text(outcome.name), *(f"{number:,}" for number in numbers), Text(why))
    Console().print(table)


def _summary(run: "DryRun") -> str:
    languages = ", ".join(f"{name} {number:,}" for name, number in sorted(run.languages.items()))
    share = run.kept_characters / run.characters if run.characters else 0
    kept = f"{run.kept:,} of {run.documents:,} documents and {share:.1%} of the characters stay"
    if run.empty:
        kept += f", {run.empty:,} hold no text"
    return f"{kept} ({languages})" if languages else kept


def _print_examples(outcome: "StepOutcome") -> None:
    for example in outcome.changes:
        _print_example(f"{outcome.name} changes", example)
    for reason, examples in outcome.rejections.items():
        for example in examples:
            _print_example(f"{outcome.name} rejects, {reason}:", example)


def _print_example(what: str, example: "Example") -> None:
    # repr: a document's own line breaks and terminal escapes must not reach the terminal.
    typer.echo(f"\n{what} {example.id}\n  {example.text!r}")
    if example.after is not None:
        typer.echo(f"  {example.after!r}")
