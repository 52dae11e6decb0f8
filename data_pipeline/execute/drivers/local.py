"""Processes on this machine, each with one task at a time and one core."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from io import FileIO
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Self

from data_pipeline.config import Execution
from data_pipeline.errors import DataError
from data_pipeline.execute.drivers.driver import Report
from data_pipeline.execute.job import Job
from data_pipeline.execute.worker import failure, run_task
from data_pipeline.tokenizer import encoders

ONE_THREAD = {"OMP_NUM_THREADS": "1", **encoders.ONE_THREAD}
"""For a worker: its neighbours have the other cores."""


class Local:
    """As many workers as configured, or one a core. A single one works in this process."""

    def __init__(self, execution: Execution) -> None:
        """Nothing is started yet."""
        self._size = execution.workers or len(os.sched_getaffinity(0))
        self._workers: list[_Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        for worker in self._workers:
            worker.stop()
        self._workers.clear()

    def run(self, job: Job, stage: str, tasks: Sequence[int], report: Report) -> None:
        """Do the tasks, the first free worker taking the next. DataError also when a worker vanishes."""
        if self._size == 1 or job.stage(stage).alone:
            with contextlib.redirect_stdout(sys.stderr):  # for what a step prints
                for index in tasks:
                    run_task(job, stage, index, partial(report, index))
            return
        waiting = list(reversed(tasks))
        while len(self._workers) < min(self._size, len(tasks)):
            self._workers.append(_Worker(job.root))
        try:
            for worker in self._workers:
                if waiting:
                    worker.begin(stage, waiting.pop())
            while busy := [worker for worker in self._workers if worker.task is not None]:
                for ready in wait([worker.answers.fileno() for worker in busy]):
                    worker = next(worker for worker in busy if worker.answers.fileno() == ready)
                    if worker.heard(stage, report) and waiting:
                        worker.begin(stage, waiting.pop())
        except BaseException:
            self.__exit__()
            raise


class _Worker:
    """One process and the pipe on which it answers."""

    def __init__(self, root: Path) -> None:
        read, write = os.pipe()
        self.answers = FileIO(read, "rb")
        self.task: int | None = None
        command = [sys.executable, "-m", "data_pipeline.execute.worker", str(root), str(write)]
        environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        # A group of its own: Ctrl-C is for the parent, which stops its workers. What a step prints goes to stderr.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=2, pass_fds=(write,), env=environment, process_group=0
        )
        os.close(write)

    def begin(self, stage: str, index: int) -> None:
        """Give it a task."""
        self.task = index
        assert self._process.stdin
        try:
            self._process.stdin.write(json.dumps({"stage": stage, "index": index}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._vanished(stage) from None

    def heard(self, stage: str, report: Report) -> bool:
        """Take one answer; True when its task is done. DataError when it failed or the process is gone."""
        line = self.answers.readline()
        if not line.endswith(b"\n"):
            raise self._vanished(stage)
        message: dict[str, Any] = json.loads(line)
        if error := failure(message):
            raise error
        assert self.task is not None
        if "advance" in message:
            report(self.task, message["advance"])
            return False
        self.task = None
        return True

    def stop(self) -> None:
        """End the process, whatever it does; its task can be gone on with."""
        self._process.kill()
        self._process.wait()
        self.answers.close()
        if self._process.stdin:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()

    def _vanished(self, stage: str) -> DataError:
        code = self._process.wait()
        if code < 0:
            how = f"was killed by signal {-code} ({signal.Signals(-code).name})"
        else:
            how = f"ended with code {code}"
        memory = "; the system may have run out of memory: lower execution.workers" if code == -signal.SIGKILL else ""
        return DataError(
            f"a worker process {how} during task {self.task} of the stage {stage}{memory}. "
            "Give the same command again: it goes on where it stopped."
        )
