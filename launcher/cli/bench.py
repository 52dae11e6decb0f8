"""`megamodel bench ...`: what this machine does, measured so that whoever reads the number can measure it again."""

import json
import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tools.verify.layouts import GRAMMAR

if TYPE_CHECKING:
    from tools.bench.activations import Kept
    from tools.bench.layouts import Measured

ConfigFile = Annotated[Path, typer.Argument(help="YAML file of a run, such as configs/runs/quickstart.yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


class Opponent(StrEnum):
    """What a step can be measured against."""

    TRANSFORMERS = "transformers"


class ContextMethod(StrEnum):
    """How ranks attend over a sequence that they share."""

    RING = "ring"
    ULYSSES = "ulysses"


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    from launcher.cli.bench_data import data
    from launcher.cli.bench_loader import loader

    sub = typer.Typer(no_args_is_help=True, help="Measure steps, layouts, the start, the loader, or deduplication.")
    sub.command("step")(step)
    sub.command("data")(data)
    sub.command("loader")(loader)
    sub.command("context")(context)
    sub.command("layouts")(layouts)
    sub.command("start")(start)
    sub.command("activations")(activations)
    sub.command("dedup")(dedup)
    app.add_typer(sub, name="bench")


def step(
    config: ConfigFile,
    overrides: Overrides = None,
    against: Annotated[Opponent | None, typer.Option(help="Measure this beside it, in the same run.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Steps to take the median of.")] = 30,
    as_json: AsJson = False,
) -> None:
    """Tokens/s, MFU and share of this device's matmul rate of one rank's optimizer step, on random tokens."""
    from launcher.config import RunConfig
    from launcher.yaml_config import load
    from tools.bench.step import measure_step

    result = measure_step(load(config, RunConfig, overrides or []).value, rounds, against is not None)
    options = ["--against", against.value] if against else []
    result["command"] = _command("step", config, overrides, *options, "--rounds", str(rounds))
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _print(_step_rows(result), result["command"])


def context(
    method: Annotated[ContextMethod, typer.Option(help="As parallel.cp_method.")] = ContextMethod.RING,
    ranks: Annotated[int, typer.Option(min=1, help="Processes that share the sequence, as parallel.cp.")] = 4,
    seq_len: Annotated[int, typer.Option(min=2, help="Tokens of the sequence.")] = 32768,
    heads: Annotated[int, typer.Option(min=1, help="Query heads.")] = 4,
    kv_heads: Annotated[int, typer.Option(min=1, help="Key/value heads.")] = 4,
    head_size: Annotated[int, typer.Option(min=1, help="Width of a head.")] = 16,
    document_tokens: Annotated[int, typer.Option(min=0, help="Tokens of each packed document; 0: one document.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Memory and time of one attention over a long sequence, forward and backward, that ranks share.

    Every rank's peak memory, its largest tensor and its time, beside those of one process that attends alone where
    that fits, and how far the results are apart. On GPUs where there is one for each rank, else on the CPU.
    """
    from tools.bench.context import measure_context
    from tools.bench.context_rank import Workload

    workload = Workload(method.value, ranks, seq_len, heads, kv_heads, head_size, document_tokens)
    result = measure_context(workload)
    options = (f"--{name.replace('_', '-')}={value}" for name, value in vars(workload).items())
    result["command"] = shlex.join(["megamodel", "bench", "context", *options])
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _print_context(result)


def layouts(
    config: ConfigFile,
    overrides: Overrides = None,
    layouts: Annotated[
        str | None,
        typer.Option(help=f"Comma-separated names; default: those that this machine holds. In a name, {GRAMMAR}."),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Steps to take the median of.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Time of a step, peak memory of a rank and bytes sent on each axis, for each layout, on random tokens.

    Every layout computes the same global batch. Bytes are counted from the collectives that a step really starts, and
    are what each rank must send at least: 2 (n-1)/n of an all-reduce, (n-1)/n of the output of an all-gather, of the
    input of a reduce-scatter or an all-to-all, all of what goes to one other rank.
    """
    from dataclasses import asdict

    from launcher.config import RunConfig
    from launcher.yaml_config import load
    from tools.bench.layouts import measure_layouts
    from tools.verify.layouts import default_layouts, most_ranks, parse_layouts

    run = load(config, RunConfig, overrides or []).value
    chosen = parse_layouts(layouts) if layouts is not None else default_layouts(most_ranks(run.engine))
    found = measure_layouts(config, run, overrides or [], chosen, rounds)
    options = ["--layouts", layouts] if layouts is not None else []
    command = _command("layouts", config, overrides, *options, "--rounds", str(rounds))
    if as_json:
        typer.echo(json.dumps({"layouts": [asdict(one) for one in found], "command": command}))
    else:
        _print_layouts(found, command)


def _print_layouts(found: "list[Measured]", command: str) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("layout", "ranks", "micro-batch", "step", "to single", "rank's peak", "sent by a rank in a step"):
        table.add_column(column, overflow="fold")
    for one in found:
        if one.refused:
            table.add_row(one.layout, str(one.ranks), str(one.micro_batch_size), "", "", "", "refused")
            continue
        sent = "\n".join(f"{axis} {size / 1e6:,.3f} MB" for axis, size in one.bytes_by_axis.items())
        figures = (f"{one.milliseconds:,.1f} ms", f"{one.ratio:.2f}", f"{one.peak_bytes / 1e6:,.0f} MB", sent)
        table.add_row(one.layout, str(one.ranks), str(one.micro_batch_size), *figures)
    console = Console()
    console.print(table)
    for one in found:
        if one.refused:
            console.print(f"{one.layout} is refused: {one.refused}", markup=False, soft_wrap=True)
    typer.echo(f"again: {command}")


def start(
    config: ConfigFile,
    overrides: Overrides = None,
    simulate: Annotated[
        int | None,
        typer.Option(min=1, metavar="RANKS", help="Trace one of so many ranks, without memory and without the others."),
    ] = None,
    rank: Annotated[int, typer.Option(min=0, help="With --simulate: which one.")] = 0,
    as_json: AsJson = False,
) -> None:
    """What a rank holds when training starts: really, on engine.ranks ranks, or traced for one rank of a large job."""
    from launcher.config import RunConfig
    from launcher.errors import UserError
    from launcher.yaml_config import load
    from tools.bench.start import measure_start, trace_start

    run = load(config, RunConfig, overrides or []).value
    if simulate is None:
        result = measure_start(config, run, overrides or [])
        options: list[str] = []
    elif rank >= simulate:
        raise UserError(f"--rank {rank} is none of {simulate} ranks, which count from 0")
    else:
        result = trace_start(run, simulate, rank)
        options = ["--simulate", str(simulate), "--rank", str(rank)]
    result["command"] = _command("start", config, overrides, *options)
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _print(_measured_start_rows(result) if simulate is None else _start_rows(result), result["command"])


def activations(
    config: ConfigFile,
    overrides: Overrides = None,
    rounds: Annotated[int, typer.Option(min=1, help="Passes to take the median of.")] = 10,
    as_json: AsJson = False,
) -> None:
    """What each engine.activation_checkpointing keeps of one micro-batch for the backward pass, and what it costs.

    With engine.compile=true also within memory budgets, and on a GPU with engine.offload_activations.
    """
    from dataclasses import asdict

    from launcher.config import RunConfig
    from launcher.yaml_config import load
    from tools.bench.activations import measure_activations

    found = measure_activations(load(config, RunConfig, overrides or []).value, rounds)
    command = _command("activations", config, overrides, "--rounds", str(rounds))
    if as_json:
        typer.echo(json.dumps({"modes": [asdict(one) for one in found], "command": command}))
    else:
        _print_activations(found, command)


def dedup(
    documents: Annotated[int, typer.Option(min=100, help="Documents of the corpus.")] = 1_000_000,
    workers: Annotated[int, typer.Option(min=1, help="As execution.workers.")] = 2,
    memory: Annotated[int, typer.Option(min=1, help="MiB, as execution.memory_per_worker.")] = 64,
    folder: Annotated[Path | None, typer.Option(help="Where to work; unset: the system's temporary folder.")] = None,
    as_json: AsJson = False,
) -> None:
    """What deduplication finds of the copies planted in a synthetic corpus, how fast, in how much memory.

    Runs the stages of `data prepare` with deduplicate.exact and the default deduplicate.near. Copies: equal ones but
    for capitals and spaces, and similar ones above and below the threshold. Takes about 1.7 GB of disk a million.
    """
    from tools.bench.dedup import measure_dedup

    result = measure_dedup(documents, workers, memory * 2**20, folder)
    options = ["--documents", str(documents), "--workers", str(workers), "--memory", str(memory)]
    options += ["--folder", str(folder)] if folder else []
    result["command"] = shlex.join(["megamodel", "bench", "dedup", *options])
    if as_json:
        typer.echo(json.dumps(result))
    else:
        _print_dedup(result)


def _print_dedup(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    stages = Table("stage", "time", "documents/s", "MB/s", "largest process")
    for stage in result["stages"]:
        rates = (f"{stage['documents_per_second']:,.0f}", f"{stage['megabytes_per_second']:,.1f}")
        stages.add_row(stage["name"], f"{stage['seconds']:.1f} s", *rates, f"{stage['peak_bytes'] / 2**20:,.0f} MiB")
    console.print(stages)
    found = Table("duplicates", "planted", "dropped", "recall", "precision")
    for kind in ("exact", "near"):
        score = result[kind]
        shares = (f"{score['recall']:.2%}", f"{score['precision']:.2%}")
        found.add_row(kind, f"{score['planted']:,}", f"{score['found']:,}", *shares)
    console.print(found)
    classes = Table("least similarity", "mean", "planted", "dropped", "share", "by theory")
    for each in result["classes"]:
        numbers = (f"{each['mean']:.3f}", f"{each['planted']:,}", f"{each['dropped']:,}")
        share = each["dropped"] / max(1, each["planted"])
        classes.add_row(f"{each['similarity']}", *numbers, f"{share:.2%}", f"{each['expected']:.2%}")
    console.print(classes)
    bound, bare = result["memory_per_worker"] / 2**20, result["bare_bytes"] / 2**20
    typer.echo(
        f"{result['documents']:,} documents, {result['bytes'] / 1e6:,.0f} MB of text, {result['workers']} workers in "
        f"{result['seconds']:.0f} s; {bound:,.0f} MiB allowed to each beside the {bare:,.0f} MiB with which it starts"
    )
    hashing = result["hashing"]
    typer.echo(
        f"one core hashes {hashing['exact']:,.0f} MB/s of text for exact keys, {hashing['bands']:,.0f} MB/s for bands"
    )
    typer.echo(f"again: {result['command']}")


def _print_activations(found: "list[Kept]", command: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("mode", "kept of a micro-batch", "share", "time of forward and backward")
    for one in found:
        mode = ", ".join(str(value) for value in one.settings.values() if value is not True)
        mode += ", offloaded" * one.settings.get("offload_activations", False)
        share, ratio = one.bytes / found[0].bytes, one.milliseconds / found[0].milliseconds
        table.add_row(
            mode, f"{one.bytes / 2**20:,.1f} MiB", f"{share:.0%}", f"x {ratio:.2f} ({one.milliseconds:,.0f} ms)"
        )
    Console().print(table)
    typer.echo(f"again: {command}")


_HELD = {
    "parameter_bytes": "parameters",
    "gradient_bytes": "gradients",
    "moment_bytes": "moments",
    "largest_parameter_bytes": "largest whole parameter",
    "peak_bytes": "most at once while starting",
}


def _start_rows(rank: dict[str, Any]) -> list[tuple[str, str]]:
    place = [("layout", f"{rank['layout']}; rank {rank['rank']}")] if "layout" in rank else []
    return place + [(words, f"{rank[name] / 1e9:,.3f} GB") for name, words in _HELD.items() if name in rank]


def _measured_start_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    ranks = result["ranks"]
    most = {name: max(rank[name] for rank in ranks) for name in ranks[0]}
    return [
        ("ranks", str(len(ranks))),
        *((f"a rank's {name}", value) for name, value in _start_rows(most)),
        ("all ranks together, at most", f"{result['total_bytes'] / 1e9:,.3f} GB with interpreters"),
        ("time", f"{most['seconds_to_start']:.1f} s"),
    ]


def _command(name: str, config: Path, overrides: list[str] | None, *options: str) -> str:
    return shlex.join(["megamodel", "bench", name, str(config), *(overrides or []), *options])


def _step_rows(result: dict[str, Any]) -> list[tuple[str, str]]:
    mfu = f"{result['mfu']:.1%}" if result["mfu"] is not None else "no published peak for this device and type"
    sequences = f"{result['micro_batches']} x {result['micro_batch_size']} sequences of {result['seq_len']} tokens"
    rows = [
        ("measured on", f"{result['device']}, {result['cpu_threads']} CPU threads, {result['dtype']}"),
        ("one step", f"{sequences}, forward, backward, clip, AdamW; median of {result['rounds']}"),
        ("time", f"{result['milliseconds_per_step']:.1f} ms"),
        ("throughput", f"{result['tokens_per_second']:,.0f} tokens/s"),
        ("arithmetic", f"{result['achieved_flops'] / 1e9:,.1f} GFLOP/s ({result['convention']})"),
        ("MFU", mfu),
        ("measured matmul rate", f"{result['matmul_flops'] / 1e9:,.1f} GFLOP/s"),
        ("share of it", f"{result['share_of_matmul']:.1%}"),
    ]
    if theirs := result.get("transformers"):
        rows += [
            (f"transformers {theirs['version']}", f"{theirs['milliseconds_per_step']:.1f} ms, same weights and tokens"),
            ("their time / ours", f"{theirs['their_time_over_ours']:.3f}"),
            ("losses agree to", f"{theirs['largest_loss_difference']:.1e} of their value"),
        ]
    return rows


def _print(rows: list[tuple[str, str]], command: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(show_header=False)
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    typer.echo(f"again: {command}")


def _print_context(result: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("process", "peak memory", "largest tensor", "time")
    named = [(f"rank {rank}", figures) for rank, figures in enumerate(result["per_rank"])]
    if result["alone"] is not None:
        named.append(("one process, alone", result["alone"]))
    for name, figures in named:
        sizes = (f"{figures[key] / 2**20:,.1f} MiB" for key in ("peak_bytes", "largest_bytes"))
        table.add_row(name, *sizes, f"{figures['seconds']:.2f} s")
    Console().print(table)
    typer.echo(f"{result['method']} on {result['device']}; the whole scores: {result['scores_bytes'] / 2**20:,.0f} MiB")
    if result["alone"] is None:
        typer.echo("one process alone has not the memory")
    else:
        typer.echo(f"values and gradients agree to {result['largest_difference']:.1e} of the largest")
    typer.echo(f"again: {result['command']}")
