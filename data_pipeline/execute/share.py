"""A part of a preparation, done by a job of a batch system such as Slurm; what joins the parts is the work folder.

python -m data_pipeline.execute.share WORK work STAGE CORES N K    the K-th of N shares of a stage
python -m data_pipeline.execute.share WORK publish                 the end, once all stages are done
"""

import json
import os
import sys
from pathlib import Path

from data_pipeline.config import Execution, PrepareConfig
from data_pipeline.errors import DataError
from data_pipeline.execute.drivers.local import ONE_THREAD, Local
from data_pipeline.execute.job import Job, patiently
from data_pipeline.execute.prepare import STAMP, beginning, finish, refuse_to_replace_others, run_tasks
from data_pipeline.execute.publish import restore
from data_pipeline.execute.task import Task, disk_error
from data_pipeline.execute.timings import Timings
from data_pipeline.files import making, write_atomically

WELL = "ended well"
"""The last words of a job that did its part."""
_TODO = "todo.json"
_SHARES = "shares"
"""Folder in which each share notes its time."""


def begin(config: PrepareConfig, force: bool = False) -> Job | None:
    """Make the work folder in which other processes do the work; None when OUT is up to date."""
    with beginning(config, force) as stamp:
        if stamp is None:
            return None
        job = Job.create(config)
        write_atomically(job.root / STAMP, json.dumps(stamp).encode())
        stage, tasks = next(((name, tasks) for name, tasks in missing(job).items() if tasks), ("", []))
        write_atomically(job.root / _TODO, json.dumps({"stage": stage, "tasks": tasks}).encode())
        return job


def missing(job: Job) -> dict[str, list[int] | None]:
    """Of each stage the tasks that are not done; None where that is not known yet, since an earlier one is not done."""
    found: dict[str, list[int] | None] = {}
    for stage in job.stages:
        known = not any(tasks is None or tasks for tasks in found.values())
        found[stage.name] = [task.index for task in job.tasks(stage.name) if not task.done] if known else None
    return found


def run_share(root: Path, stage: str, cores: int, shares: int, number: int) -> None:
    """Do one of `shares` equal parts of what was missing of a stage at the beginning, `cores` tasks at once."""
    job = Job.open(root)
    tasks = _divided(job, patiently(lambda: job.tasks(stage)), stage)[number::shares]
    folder = root / _SHARES / str(number)
    folder.mkdir(parents=True, exist_ok=True)
    with Timings(folder).of(stage), Local(Execution(workers=cores)) as driver:
        run_tasks(job, job.stage(stage), tasks, driver)
    print(f"{job.stage(stage).doing}, {len(tasks)} tasks: {WELL}", flush=True)


def _divided(job: Job, tasks: list[Task], stage: str) -> list[Task]:
    """What the shares are taken from: what is done already would make them unequal."""
    todo = json.loads((job.root / _TODO).read_bytes())
    return [tasks[index] for index in todo["tasks"]] if todo["stage"] == stage else tasks


def publish(root: Path) -> None:
    """Put the results of all shares together under the name OUT."""
    job = Job.open(root)
    out = job.config.out.resolve()
    stamp = json.loads((root / STAMP).read_bytes())
    with making(out):
        restore(out)
        refuse_to_replace_others(out)
        patiently(lambda: [job.finished(stage.name) for stage in job.stages])
        timings = Timings(root)
        timings.seconds = _seconds(job)
        finish(job, stamp, timings)
    print(f"putting together {out}: {WELL}", flush=True)


def _seconds(job: Job) -> dict[str, float]:
    """By stage: what the share that took longest needed, all its attempts together."""
    noted = [Timings(folder).seconds for folder in sorted((job.root / _SHARES).glob("*"))]
    found = {stage.name: max((seconds.get(stage.name, 0.0) for seconds in noted), default=0.0) for stage in job.stages}
    return {name: seconds for name, seconds in found.items() if seconds}


def main(arguments: list[str]) -> int:
    """Run as a program; returns the exit code."""
    root, what, *rest = arguments
    try:
        if what == "publish":
            publish(Path(root))
        else:
            stage, cores, shares, number = rest
            if int(cores) == 1:
                os.environ.update(ONE_THREAD)
            run_share(Path(root), stage, int(cores), int(shares), int(number))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {disk_error(error, Path(root))}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
