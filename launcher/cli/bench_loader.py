"""`megamodel bench loader`: how fast batches come, cold and warm, beside other ways of reading the same windows."""

import json
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from data_pipeline.mixture import Mixture

_GB = 10**9
_SMALL = 256 << 20
"""Bytes of tokens below which a cold figure says little."""


def loader(
    config: Annotated[
        Path | None, typer.Argument(help="YAML file of a run; unset: random ids, sequences of 2,048 tokens.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="How long to draw batches in each measurement.")] = 1.0,
    rounds: Annotated[int, typer.Option(min=1, help="Measurements to take the median of.")] = 3,
    size: Annotated[
        float | None,
        typer.Option(min=0.001, metavar="GB", help="Read random ids, so many GB in a temporary folder (TMPDIR)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Tokens/s of the loader that training uses, cold and warm, beside other ways of reading the same windows.

    Cold: the files were dropped from memory before each measurement. The loader reads ahead in a thread, the other
    ways in one thread. A batch is about half a million tokens, or train.global_batch_size sequences when that is given
    as an argument.
    """
    from tools.bench.loader import compare_ways, measure_loader

    with tempfile.TemporaryDirectory(prefix="bench-loader-") as folder:
        opened, batch = _source(config, overrides, size, Path(folder))
        result: dict[str, Any] = measure_loader(opened(), batch, seconds)
        result["bytes"] = sum(shard.bin.size for shards in opened().sources for shard in shards.manifest.shards)
        result["ways"] = compare_ways(opened, batch, seconds, rounds)
    given = [] if config is None else [str(config), *(overrides or [])]
    size_given = [] if size is None else ["--size", f"{size:g}"]
    options = [*given, "--seconds", f"{seconds:g}", "--rounds", str(rounds), *size_given]
    result["rounds"], result["command"] = rounds, shlex.join(["megamodel", "bench", "loader", *options])
    if as_json:
        typer.echo(json.dumps(result))
    else:
        print_table(result)


def _source(
    config: Path | None, overrides: list[str] | None, size: float | None, folder: Path
) -> tuple[Callable[[], "Mixture"], int | None]:
    """How to open what is read, and the sequences of a batch where they are given."""
    from data_pipeline.mixture import Mixture
    from launcher.config import RunConfig
    from launcher.yaml_config import COMMAND_LINE, load
    from tools.bench.random_shards import write_random_shards
    from tools.inspect.batch import open_mixture

    batch, seq_len = None, 2048
    if config is not None:
        loaded = load(config, RunConfig, overrides or [])
        given = loaded.origin("train.global_batch_size").place == COMMAND_LINE
        batch = loaded.value.train.global_batch_size if given else None
        seq_len = loaded.value.train.seq_len
        if size is None:
            return lambda: open_mixture(loaded.value), batch
    prefix = write_random_shards(folder, int((size or 1.0) * _GB))
    return lambda: Mixture.open([(prefix, 1.0)], seq_len, 0), batch


def print_table(result: dict[str, Any]) -> None:
    """Print one row a way."""
    from rich.console import Console
    from rich.table import Column, Table

    right = [Column(name, justify="right") for name in ("cold, tokens/s", "x", "moved/asked", "warm, tokens/s", "x")]
    table = Table(Column("way", no_wrap=True), *right)
    for way in result["ways"]:
        cold = (_rate(way["cold"]), _times(way["cold_ratio"]), _times(way["moved_per_asked"]))
        table.add_row(way["way"], *cold, _rate(way["warm"]), _times(way["warm_ratio"]))
    Console().print(table)
    typer.echo(
        f"x: the loader's rate over the way's. {result['global_batch_size']} sequences of {result['seq_len']} tokens a "
        f"batch, {result['bytes'] / _GB:.2f} GB of tokens; medians of {result['rounds']} rounds. The same few batches "
        f"again and again: {result['tokens_per_second']:,.0f} tokens/s, {result['milliseconds_per_batch']:.3f} ms each."
    )
    if result["packed"]:
        typer.echo(
            "data.packing=best_fit: megamodel joins documents into rows, the other ways read contiguous windows."
        )
    if any(way["cold"] is None for way in result["ways"]):
        typer.echo("No cold figures where no disk is asked: the files lie in memory and cannot be dropped from it.")
    elif result["bytes"] < _SMALL:
        typer.echo("Cold figures of so little say little: give --size 1 for a gigabyte of random ids.")
    typer.echo(f"again: {result['command']}")


def _rate(value: float | None) -> str:
    return "" if value is None else f"{value / 1e6:,.1f} M"


def _times(value: float | None) -> str:
    return "" if value is None else f"{value:,.2f}"
