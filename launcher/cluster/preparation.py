"""A data preparation as jobs of Slurm: an array for each stage that has something to do, each after the one before.

Scripts, logs and the numbers of the jobs lie in OUT.slurm, beside OUT; the work in OUT.work. When something failed, or
a job was ended, the same command submits what is missing.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from data_pipeline.config import PrepareConfig
from data_pipeline.execute.drivers.driver import module_paths
from data_pipeline.execute.job import Job, work_folder
from data_pipeline.execute.share import WELL, begin, missing
from data_pipeline.files import write_atomically
from launcher.cluster import slurm
from launcher.cluster_config import ClusterConfig
from launcher.errors import UserError

PUBLISH = "publish"
"""Called a stage here: the last job, which puts the results together."""
_JOBS = "jobs.json"
_MODULE = "data_pipeline.execute.share"


@dataclass(frozen=True)
class Submitted:
    """A stage that was handed to Slurm."""

    stage: str
    job: str
    """Its number."""
    script: str


@dataclass(frozen=True)
class StageStatus:
    """How far a stage is."""

    stage: str
    done: int | None
    """Tasks done; None while their number is not known, because an earlier stage is not done."""
    tasks: int | None
    job: str | None
    """Its number in Slurm, if it was submitted."""
    states: dict[str, int]
    """How many elements of the job are in which state; none when it is over."""
    error: str | None
    """What the job's logs say of an error, with the log's path."""


def scripts(config: PrepareConfig, cluster: ClusterConfig) -> list[tuple[str, slurm.Script]]:
    """(stage, batch script) for all that is missing, in the order in which they run. Writes nothing."""
    job, most = Job(work_folder(config.out.resolve()), config), cluster.data.workers
    shares = {
        stage: 1 if job.stage(stage).alone else min(most, len(tasks or range(most)))
        for stage, tasks in missing(job).items()
        if tasks is None or tasks
    }
    stages = enumerate([*shares.items(), (PUBLISH, 0)], start=1)
    return [(stage, _script(job, cluster, number, stage, count)) for number, (stage, count) in stages]


def submit(config: PrepareConfig, cluster: ClusterConfig, force: bool = False) -> list[Submitted]:
    """Write the scripts and hand them to Slurm: all, or none when one is refused. Empty when OUT is up to date."""
    refuse_while_submitted(config)
    folder = slurm_folder(config)
    if folder.exists() and any(folder.iterdir()) and not (folder / _JOBS).exists():
        raise UserError(f"{folder}, where scripts and logs would lie, holds other files; move it away.")
    if begin(config, force) is None:
        return []
    folder.mkdir(exist_ok=True)
    _note(folder, [])
    for old in folder.glob("*.sh"):
        old.unlink()
    done: list[Submitted] = []
    try:
        for stage, script in scripts(config, cluster):
            script.path.write_text(script.text)
            number = slurm.submit(script, done[-1].job if done else None)
            done.append(Submitted(stage, number, str(script.path)))
            _note(folder, done)
    except BaseException:
        slurm.cancel([job.job for job in done])
        raise
    return done


def refuse_while_submitted(config: PrepareConfig) -> None:
    """UserError while jobs that were submitted for this OUT are not over: two must not do the same work."""
    if not work_folder(config.out.resolve()).exists():
        return
    try:
        running = sorted(slurm.alive([job.job for job in submitted(config)]), key=int)
    except UserError as error:
        raise UserError(
            f"{error} (It is asked for the jobs in {slurm_folder(config) / _JOBS}; remove that if they are over.)"
        ) from None
    if running:
        raise UserError(
            f"jobs of Slurm are at work on {config.out}. Watch them with `squeue --jobs={','.join(running)}`, or end "
            f"them with `scancel {' '.join(running)}`; when they are gone, give the command again."
        )


def status(config: PrepareConfig) -> list[StageStatus]:
    """How far each stage is, and what went wrong in the jobs that were submitted last."""
    job = Job(work_folder(config.out.resolve()), config)
    numbers = {stage.stage: stage.job for stage in submitted(config)}
    states = slurm.alive(list(numbers.values()))
    lefts = missing(job) if job.root.exists() else dict.fromkeys(stage.name for stage in job.stages)
    found = []
    for stage, left in [*lefts.items(), (PUBLISH, None)]:
        number = numbers.get(stage)
        tasks = None if left is None else len(job.tasks(stage))
        done = None if left is None or tasks is None else tasks - len(left)
        at_work = states.get(number or "", {})
        error = _error(slurm_folder(config), stage, number, not at_work) if number and left != [] else None
        found.append(StageStatus(stage, done, tasks, number, at_work, error))
    return found


def submitted(config: PrepareConfig) -> list[Submitted]:
    """The jobs that were submitted last for this OUT; none when there were none."""
    path = slurm_folder(config) / _JOBS
    try:
        return [Submitted(**job) for job in json.loads(path.read_bytes())]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}); remove it when its jobs are over.") from error


def slurm_folder(config: PrepareConfig) -> Path:
    """Where scripts, logs and the numbers of the jobs lie."""
    out = config.out.resolve()
    return out.with_name(out.name + ".slurm")


def _note(folder: Path, jobs: list[Submitted]) -> None:
    write_atomically(folder / _JOBS, json.dumps([vars(job) for job in jobs], indent=1).encode())


def _script(job: Job, cluster: ClusterConfig, number: int, stage: str, shares: int) -> slurm.Script:
    folder, out = slurm_folder(job.config), job.config.out.resolve()
    options = {
        "job-name": f"{out.name}-{stage}",
        "array": f"0-{shares - 1}" if shares else None,
        "cpus-per-task": cluster.data.cpus if shares else 1,
        "mem": cluster.data.memory,
        "chdir": str(Path.cwd()),
        "output": slurm.verbatim(folder / stage) + ("-%A_%a.log" if shares else "-%A.log"),
        "open-mode": "append",
        "requeue": "",
        "kill-on-invalid-dep": "yes",
    }
    text = slurm.script_text(cluster, cluster.data, options, _lines(job, cluster, stage, shares))
    return slurm.Script(folder / f"{number:02d}-{stage}.sh", text)


def _lines(job: Job, cluster: ClusterConfig, stage: str, shares: int) -> Iterator[str]:
    """What a job does, in shell."""
    if paths := module_paths():
        yield f"export {slurm.shell('PYTHONPATH=' + os.pathsep.join(paths))}"
    command = ["exec", sys.executable, "-m", _MODULE, str(job.root)]
    if shares:
        share = slurm.shell(*command, "work", stage, str(cluster.data.cpus), str(shares))
        yield f'{share} "$SLURM_ARRAY_TASK_ID"'
    else:
        yield slurm.shell(*command, PUBLISH)


def _error(folder: Path, stage: str, number: str, over: bool) -> str | None:
    """The first line of a job's logs about an error; when it is over, else how an unfinished element's log ends."""
    unfinished = None
    for log in sorted(folder.glob(f"{stage}-{number}[_.]*log")):
        lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
        if lines and lines[-1].endswith(WELL):
            continue
        found = next((line for line in lines if re.search(r"\berror\b", line, re.IGNORECASE)), None)
        if found:
            return f"{log}: {found}"
        if over and not unfinished:
            unfinished = f"{log}: {lines[-1]}" if lines else f"{log} is empty: its process was killed, or never began"
    return unfinished
