"""megamodel config: what is set, by which file, and what it means."""

from pathlib import Path
from typing import Annotated, Any

import typer

sub = typer.Typer(no_args_is_help=True, help="What is set, by which file, and what it means.", rich_markup_mode=None)

ConfigFile = Annotated[Path, typer.Argument(help="A YAML file: a run, a data preparation, a model or a cluster.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Settings over the file's, such as train.steps=100.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.add_typer(sub, name="config")


@sub.command()
def check(config: ConfigFile, overrides: Overrides = None) -> None:
    """Find every mistake: names, types, missing data, and whether model, batch, ranks, data and disk fit together."""
    from launcher.physics import check_prepare, check_run
    from launcher.settings.kinds import kind_of, schemas
    from launcher.yaml_config import load

    kind = kind_of(config, overrides or ())
    if kind == "run":
        from launcher.train.here import problems_here

        for note in check_run(config, overrides or (), problems_here):
            typer.echo(f"note: {note.setting}: {note.message}")
    elif kind == "data":
        check_prepare(config, overrides or ())
    else:
        load(config, schemas()[kind], overrides or ())
    typer.echo(f"{config}: a {kind} configuration without mistakes")


@sub.command()
def show(config: ConfigFile, overrides: Overrides = None, as_json: Json = False) -> None:
    """Print the resolved configuration, each value with its origin, and the JSON that DeepSpeed is given, if it is."""
    import json

    from launcher.settings.explain import with_origins
    from launcher.settings.kinds import kind_of, schemas
    from launcher.yaml_config import load

    loaded = load(config, schemas()[kind_of(config, overrides or ())], overrides or ())
    deepspeed = _deepspeed(loaded.value)
    if as_json:
        origins = {name: str(origin) for name, origin in loaded.origins.items()}
        shown = {"config": loaded.value.model_dump(mode="json"), "origins": origins}
        typer.echo(json.dumps(shown | ({"deepspeed": deepspeed} if deepspeed else {}), indent=2))
    else:
        typer.echo(with_origins(loaded), nl=False)
        if deepspeed:
            lines = ["What DeepSpeed is given:", *json.dumps(deepspeed, indent=2).splitlines()]
            typer.echo("\n" + "\n".join(f"# {line}" for line in lines))


def _deepspeed(run: object) -> dict[str, Any] | None:
    """What DeepSpeed would be given on this machine, if the configuration is a run with it.

    Warns of raw keys that contradict our settings.
    """
    from launcher.config import RunConfig

    if not (isinstance(run, RunConfig) and run.engine.name == "deepspeed"):
        return None
    from launcher.deepspeed_json import contradictions, deepspeed_json
    from launcher.train.here import ranks_and_precision

    ranks, precision = ranks_and_precision(run)
    given = deepspeed_json(run, ranks, precision)
    for contradiction in contradictions(run, ranks, precision):
        typer.echo(f"warning: {contradiction}", err=True)
    return given


@sub.command()
def explain(
    targets: Annotated[list[str], typer.Argument(help="A configuration file, settings such as optimizer.lr, or both.")],
    as_json: Json = False,
) -> None:
    """Say what settings mean: type, default, allowed values; with a file also their value there and its origin."""
    import json

    from launcher.settings.explain import explanations, in_words

    found = explanations(targets)
    typer.echo(json.dumps(found, indent=2) if as_json else "\n".join(map(in_words, found)))


@sub.command()
def schema(
    config: Annotated[
        Path | None, typer.Argument(help="The file whose kind of schema is wanted; unset: a run.")
    ] = None,
) -> None:
    """Print the JSON schema, for editors that complete and check YAML."""
    import json

    from launcher.settings.explain import json_schema
    from launcher.settings.kinds import kind_of, schemas

    chosen = schemas()[kind_of(config) if config else "run"]
    typer.echo(json.dumps(json_schema(chosen), indent=2))
