"""`megamodel data prepare`: raw text to clean shards, as configured."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.data import AsJson, Force, show_sets

if TYPE_CHECKING:
    from data_pipeline.execute import Prepared

_FEW_TOKENS = 2049
"""One sequence of 2,048 tokens and its last target."""


def prepare(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/data/quickstart.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")] = None,
    force: Force = False,
    sample: Annotated[
        int | None, typer.Option(min=1, help="Write nothing: show what cleaning would do to so many documents.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read, clean, deduplicate, tokenize and shard, as configured.

    Stopped or killed, it goes on where it was when the same command is given again. A second run finds the result up
    to date.
    """
    from data_pipeline.config import PrepareConfig
    from data_pipeline.execute import prepare as run
    from launcher.yaml_config import load

    settings = load(config, PrepareConfig, overrides or []).value
    if sample:
        from launcher.cli.data_sample import show_sample

        show_sample(settings, sample, as_json)
        return
    done = run(settings, force)
    if not as_json:
        typer.echo(f"{done.out} {'is up to date' if done.up_to_date else 'is ready'}; tokenizer: {done.out}/tokenizer")
        typer.echo(f"report: {done.report}")
    _warn(done)
    show_sets({str(done.out / name): manifest for name, manifest in done.sets.items()}, as_json)


def _warn(done: "Prepared") -> None:
    """Say what a user should know before going on."""
    if done.num_broken:
        typer.echo(f"{done.num_broken:,} records could not be read; they are in {done.out}/broken.jsonl.", err=True)
    validation = done.sets.get("validation")
    if validation and validation.num_tokens < _FEW_TOKENS:
        typer.echo(
            f"The validation set has only {validation.num_tokens:,} tokens; its loss will say little, and no sequence "
            "longer than that can be made of it: raise validation_fraction or add documents.",
            err=True,
        )
