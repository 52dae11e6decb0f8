"""Slurm: what a batch script looks like, and sbatch, squeue and scancel."""

import re
import shlex
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from launcher.cluster_config import ClusterConfig, Jobs
from launcher.errors import UserError

_GONE = "Invalid job id"


@dataclass(frozen=True)
class Script:
    """A batch script."""

    path: Path
    """Where it lies, or would lie."""
    text: str


def script_text(cluster: ClusterConfig, jobs: Jobs, own: Mapping[str, str | int | None], lines: Iterable[str]) -> str:
    """A batch script that runs some lines of shell.

    `own` are the options that the caller gives; a value of None leaves the option out, "" gives it without a value.
    """
    asked = {"account": cluster.account, "partition": jobs.partition, "qos": jobs.qos, "time": jobs.time}
    options = [_option(name, value) for name, value in {**own, **asked}.items() if value is not None]
    asking = [f"#SBATCH {option}" for option in [*options, *jobs.options]]
    return "\n".join(["#!/bin/bash", *asking, "", *cluster.setup, *lines, ""])


def _option(name: str, value: str | int) -> str:
    """--NAME=VALUE as sbatch reads it in a script: with quotes where there are spaces."""
    text = str(value)
    if re.search(r"[\s\"'\\#]", text):
        text = '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
    return f"--{name}={text}" if text else f"--{name}"


def verbatim(path: Path) -> str:
    """A path as the part of an option in which Slurm replaces nothing."""
    return str(path).replace("%", "%%")


def submit(script: Script, after: str | None) -> str:
    """Hand a script to Slurm, to begin when the job `after` has ended well; returns the job's number."""
    waiting = [f"--dependency=afterok:{after}"] if after else []
    return _run("sbatch", "--parsable", *waiting, str(script.path)).strip().partition(";")[0]


def alive(jobs: Sequence[str]) -> dict[str, dict[str, int]]:
    """Of those jobs that are not over: how many elements are in which state."""
    if not jobs:
        return {}
    try:
        lines = _run("squeue", "--noheader", "--array", f"--jobs={','.join(jobs)}", "--format=%F %T").splitlines()
    except UserError as error:
        if _GONE in str(error):
            return {}
        raise
    found: dict[str, dict[str, int]] = {}
    for job, state in (line.split() for line in lines):
        states = found.setdefault(job, {})
        states[state] = states.get(state, 0) + 1
    return found


def cancel(jobs: Sequence[str]) -> None:
    """End jobs."""
    if jobs:
        _run("scancel", *jobs)


def shell(*words: str) -> str:
    """Words as a line of shell."""
    return shlex.join(words)


def _run(*command: str) -> str:
    """What a command of Slurm prints. UserError with what it says when it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise UserError(
            f"{command[0]} is not found: give the command on a machine from which jobs are submitted; "
            "--dry-run shows the scripts anywhere."
        ) from None
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())
        raise UserError(f"{command[0]} failed: {said or f'exit code {done.returncode}'}")
    return done.stdout
