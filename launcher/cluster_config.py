"""What a cluster file says: how jobs are asked for, for every kind of work that is sent there."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PositiveInt

from launcher.config import Settings

_OURS = """array chdir dependency error job-name kill-on-invalid-dep open-mode output parsable wait wrap
    account partition qos time cpus-per-task mem"""
"""Options of sbatch that are settings here, or follow from what the jobs do."""


def _matching(pattern: str, meaning: str) -> AfterValidator:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"must be {meaning}")
        return text

    return AfterValidator(check)


_NAME = _matching(r"[^\s\"'\\#]+", "a name without spaces and quotes")
_TIME = _matching(
    r"\d+|\d+:\d\d(:\d\d)?|\d+-\d+(:\d\d){0,2}",
    "minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS, such as 12:00:00 or 2-0",
)
_MEMORY = _matching(r"\d+[KMGT]?", "a number with K, M, G or T, such as 4G")


def _option(text: str) -> str:
    if not re.fullmatch(r"--[a-z][a-z-]*(=[^\n]+)?", text):
        raise ValueError("must be a long option of sbatch, such as --constraint=skylake")
    name = text.partition("=")[0]
    if name.removeprefix("--") in _OURS.split():
        raise ValueError(f"{name} is set by megamodel, by another setting or by what the jobs do; remove it")
    return text


def _digits(value: object) -> object:
    """A number in YAML is meant as its digits."""
    return str(value) if type(value) is int else value


Name = Annotated[str, _NAME]
"""A name that Slurm knows."""


class Jobs(Settings):
    """How Slurm is asked for one kind of job."""

    partition: Name | None = None
    """Partition; unset: the cluster's default."""
    qos: Name | None = None
    """Quality of service; unset: the account's default."""
    time: Annotated[str, BeforeValidator(_digits), _TIME] | None = None
    """Longest time of a job: minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS; unset: the partition's default."""
    options: list[Annotated[str, AfterValidator(_option)]] = Field(default=[])
    """Further options of sbatch, such as `--constraint=skylake`."""


class DataJobs(Jobs):
    """Jobs of `megamodel data prepare`: an array for each stage."""

    workers: PositiveInt = 16
    """Elements of an array: so many jobs share the tasks of a stage."""
    cpus: PositiveInt = 1
    """Cores of each element; it does so many tasks at once."""
    memory: Annotated[str, BeforeValidator(_digits), _MEMORY] | None = "4G"
    """Memory of each element, all its tasks together; unset: the partition's default."""


class ClusterConfig(Settings):
    """A cluster that runs jobs."""

    kind: Literal["slurm"]
    """What runs the jobs."""
    account: Name | None = None
    """Account that pays; unset: your default."""
    setup: list[str] = Field(default=[])
    """Lines of shell that a job begins with, such as `module load gcc`. The Python is the one that submits."""
    data: DataJobs = DataJobs()
    """Jobs of `megamodel data prepare`."""
