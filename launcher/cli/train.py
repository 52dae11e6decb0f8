"""`megamodel train`."""

import sys
from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command(name="train")(train)


def train(
    config: Annotated[Path, typer.Argument(help="Run configuration (YAML).")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to override.")
    ] = None,
) -> None:
    """Train a run, or go on with it from its newest good checkpoint.

    Starts engine.ranks processes itself; under torchrun, deepspeed or srun it is one of theirs.
    """
    from launcher.train.start import run

    code = run(config, overrides or [])
    if code:
        sys.exit(code)
