"""`megamodel data prepare CONFIG --cluster FILE`: the same work, done by the jobs of a cluster."""

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import typer

from launcher.errors import UserError

if TYPE_CHECKING:
    from data_pipeline.config import PrepareConfig
    from data_pipeline.execute import Prepared
    from launcher.cluster.preparation import StageStatus, Submitted
    from launcher.cluster_config import ClusterConfig

_SECONDS_BETWEEN_LOOKS = 2.0


def show_submitted(config: "PrepareConfig", cluster: "ClusterConfig", force: bool, as_json: bool) -> None:
    """Submit what is missing and say how to watch it."""
    from launcher.cluster.preparation import slurm_folder, submit

    jobs = submit(config, cluster, force)
    if as_json:
        typer.echo(json.dumps([asdict(job) for job in jobs]))
    elif not jobs:
        typer.echo(f"{config.out} is up to date")
    else:
        typer.echo(f"{_listed(jobs)}\nScripts and logs: {slurm_folder(config)}")
        typer.echo(f"Watch: squeue --jobs={','.join(job.job for job in jobs)}, or this command with --status")


def _listed(jobs: "list[Submitted]") -> str:
    return "Submitted, each after the one before: " + ", ".join(f"{job.stage} {job.job}" for job in jobs)


def wait_for(config: "PrepareConfig", cluster: "ClusterConfig", force: bool) -> "Prepared":
    """Submit what is missing and return when OUT is ready. UserError when the jobs are over and it is not."""
    from data_pipeline.execute.prepare import found
    from launcher.cluster.preparation import status, submit

    if jobs := submit(config, cluster, force):
        typer.echo(_listed(jobs), err=True)
        try:
            _watch(config)
        except KeyboardInterrupt:
            typer.echo("The jobs go on. --status instead of --wait says how far they are.", err=True)
            raise
    if done := found(config):
        return replace(done, up_to_date=not jobs)
    raise UserError(_failed(config, status(config)))


def _watch(config: "PrepareConfig") -> None:
    """Say how far it is whenever that changes, until all jobs are over."""
    told = ""
    for stages in _looks(config):
        now = next((_line(stage) for stage in stages if stage.done is not None and stage.done != stage.tasks), "")
        if now not in ("", told):
            typer.echo(now, err=True)
        told = now


def _looks(config: "PrepareConfig") -> Iterator["list[StageStatus]"]:
    """How far it is, every two seconds, until all jobs are over."""
    from launcher.cluster.preparation import status

    while True:
        stages = status(config)
        if not any(stage.states for stage in stages):
            return
        yield stages
        time.sleep(_SECONDS_BETWEEN_LOOKS)


def _line(stage: "StageStatus") -> str:
    return f"{stage.stage}: {stage.done} of {stage.tasks} tasks done"


def _failed(config: "PrepareConfig", stages: "list[StageStatus]") -> str:
    """What the jobs left undone, why as far as their logs tell, and what to do."""
    first = next((stage for stage in stages if stage.done is None or stage.done != stage.tasks), stages[-1])
    what = f"the stage {first.stage} is not done" if first.done is None else _line(first)
    why = next((stage.error for stage in stages if stage.error), None)
    return "\n  ".join(
        [
            f"the jobs for {config.out} are over, but {what}.",
            why or "No log tells why; `sacct` may.",
            "Mend that and give the same command again: it submits what is missing.",
        ]
    )


def show_scripts(config: "PrepareConfig", cluster: "ClusterConfig", force: bool, as_json: bool) -> None:
    """Print what would be submitted; nothing is written."""
    from data_pipeline.execute.prepare import found
    from launcher.cluster.preparation import scripts
    from launcher.cluster.slurm import shell

    parts = scripts(config, cluster) if force or not found(config) else []
    if as_json:
        typer.echo(json.dumps([{"stage": stage, **asdict(script)} for stage, script in parts], default=str))
    elif not parts:
        typer.echo(f"{config.out} is up to date")
    for number, (_, script) in enumerate([] if as_json else parts):
        after = " --dependency=afterok:JOB_BEFORE" if number else ""
        command = f"sbatch --parsable{after} {shell(str(script.path))}"
        typer.echo(f"# {script.path}\n# submitted by: {command}\n{script.text}")


def show_status(config: "PrepareConfig", as_json: bool) -> None:
    """A row a stage, and below it what went wrong."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from data_pipeline.execute.prepare import found
    from launcher.cluster.preparation import status

    stages = [] if (ready := found(config)) else status(config)
    if as_json:
        typer.echo(json.dumps({"up_to_date": bool(ready), "stages": [asdict(stage) for stage in stages]}))
        return
    if ready:
        typer.echo(f"{config.out} is up to date")
        return
    table = Table("stage", Column("tasks done", justify="right"), Column("job", justify="right"), "in the queue")
    for stage in stages:
        states = ", ".join(f"{count} {state.lower()}" for state, count in sorted(stage.states.items()))
        done = "" if stage.done is None else f"{stage.done} of {stage.tasks}"
        table.add_row(stage.stage, done, stage.job or "", states)
    Console().print(table)
    for stage in stages:
        if stage.error:
            Console().print(Text(f"{stage.stage}: {stage.error}"), soft_wrap=True)
