"""`megamodel data prepare`: raw text to clean shards, as configured."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from launcher.cli.data import AsJson, Force, show_sets
from launcher.errors import UserError

if TYPE_CHECKING:
    from data_pipeline.config import PrepareConfig
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
    cluster: Annotated[
        Path | None, typer.Option(help="Submit it to this cluster, such as configs/clusters/slurm.yaml.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="With --cluster: only print the scripts.")] = False,
    status: Annotated[bool, typer.Option("--status", help="With --cluster: only print how far it is.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="With --cluster: end when its jobs are over.")] = False,
    as_json: AsJson = False,
) -> None:
    """Read, clean, deduplicate, tokenize and shard, as configured.

    Stopped or killed, it goes on where it was when the same command is given again. A second run finds the result up
    to date.
    """
    from data_pipeline.config import PrepareConfig
    from launcher.yaml_config import load

    settings = load(config, PrepareConfig, overrides or []).value
    asked = [name for name, given in (("--dry-run", dry_run), ("--status", status), ("--wait", wait)) if given]
    if sample:
        from launcher.cli.data_sample import show_sample

        show_sample(settings, sample, as_json)
        return
    done = _on_cluster(settings, cluster, asked, force, as_json) if cluster else _here(settings, asked, force)
    if done is None:
        return
    if not as_json:
        typer.echo(f"{done.out} {'is up to date' if done.up_to_date else 'is ready'}; tokenizer: {done.out}/tokenizer")
        typer.echo(f"report: {done.report}")
    _warn(done)
    show_sets({str(done.out / name): manifest for name, manifest in done.sets.items()}, as_json)


def _here(config: "PrepareConfig", asked: list[str], force: bool) -> "Prepared":
    """Do it on this machine, or on Ray."""
    from data_pipeline.execute import prepare as run
    from launcher.cluster.preparation import refuse_while_submitted

    if asked:
        raise UserError(f"{asked[0]} goes with --cluster FILE; to see what cleaning would do, give --sample 1000")
    refuse_while_submitted(config)
    try:
        return run(config, force)
    except KeyboardInterrupt:
        typer.echo("Stopped. The same command goes on where it was.", err=True)
        raise


def _on_cluster(config: "PrepareConfig", file: Path, asked: list[str], force: bool, as_json: bool) -> "Prepared | None":
    """Submit it; or what else is asked. What is ready, if it was waited for."""
    from launcher.cli.data_cluster import show_scripts, show_status, show_submitted, wait_for
    from launcher.cluster_config import ClusterConfig
    from launcher.yaml_config import load

    if len(asked) > 1:
        raise UserError(f"{' and '.join(asked)} are two things to do: give one")
    if config.execution.driver != "local":
        raise UserError(f"execution.driver is {config.execution.driver}, and --cluster is another place: choose one")
    cluster = load(file, ClusterConfig).value
    if asked == ["--wait"]:
        return wait_for(config, cluster, force)
    if asked == ["--status"]:
        show_status(config, as_json)
    elif asked == ["--dry-run"]:
        show_scripts(config, cluster, force, as_json)
    else:
        show_submitted(config, cluster, force, as_json)
    return None


def _warn(done: "Prepared") -> None:
    """Say what a user should know before going on."""
    if done.num_broken:
        typer.echo(
            f"Records that could not be read: {done.num_broken:,}; they are in {done.out}/broken.jsonl.", err=True
        )
    for name in done.unread:
        typer.echo(f"Nothing of the source {name} could be read: it is not in the data.", err=True)
    validation = done.sets.get("validation")
    if validation and validation.num_tokens < _FEW_TOKENS:
        typer.echo(
            f"The validation set has only {validation.num_tokens:,} tokens; its loss will say little, and no sequence "
            "longer than that can be made of it: raise validation_fraction or add documents.",
            err=True,
        )
