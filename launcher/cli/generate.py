"""`megamodel generate`: continue a text."""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command("generate")(generate)


def generate(
    source: Annotated[Path, typer.Argument(metavar="RUN_OR_EXPORT", help="Folder of a run or of an export.")],
    prompt: Annotated[str, typer.Option(help="Text to continue; empty: begin a document.")],
    max_new_tokens: Annotated[int, typer.Option(help="Stop after so many tokens.")] = 64,
    greedy: Annotated[bool, typer.Option("--greedy", help="Always take the likeliest token.")] = False,
    temperature: Annotated[float, typer.Option(help="Divide the logits by this before drawing.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest tokens that make up p.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed draws the same text.")] = 0,
    step: Annotated[int | None, typer.Option(help="Checkpoint to take; the newest good one if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print ids and text as JSON.")] = False,
) -> None:
    """Continue a text; on a terminal it appears token by token."""
    from tools.generate.generate import generate as run
    from tools.generate.sampling import Sampling

    sampling = Sampling(greedy, temperature, top_k, top_p)
    stream = sys.stdout.isatty() and not as_json
    done = run(source, prompt, max_new_tokens, sampling, seed, step, _show if stream else lambda text: None)
    for note in done.notes:
        typer.echo(f"note: {note}", err=True)
    if as_json:
        typer.echo(json.dumps(asdict(done), ensure_ascii=False))
    else:
        typer.echo("" if stream else done.text)


def _show(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
