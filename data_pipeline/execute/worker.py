"""A process that does the tasks that its parent tells it to.

python -m data_pipeline.execute.worker WORK FD     tasks by lines of JSON on stdin, answers on the descriptor FD
"""

import json
import os
import select
import sys
import threading
import time
import traceback
from io import FileIO
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.execute.claim import locked
from data_pipeline.execute.job import Advance, Job, patiently
from data_pipeline.execute.task import disk_error
from data_pipeline.tokenizer.fast import FastEncoderDiffers

_SECONDS_BETWEEN_REPORTS = 0.2


def run_task(job: Job, stage: str, index: int, advance: Advance = lambda size: None) -> None:
    """Do one task of a job, if it is not done: the one function that all drivers call. DataError when it fails."""
    task = patiently(lambda: job.tasks(stage))[index]
    if task.done:
        return
    try:
        with locked(task.folder):
            if not task.done:
                job.stage(stage).run(job, task, advance)
    except FastEncoderDiffers:
        job.distrust_fast_encoder()
        raise
    except OSError as error:
        raise disk_error(error, task.folder) from error


def serve(root: Path, descriptor: int) -> None:
    """Do the tasks that come on stdin until it ends; each is answered on the descriptor by lines of JSON."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    job = Job.open(root)
    with os.fdopen(descriptor, "wb", buffering=0) as answers:
        for line in sys.stdin.buffer:
            command = json.loads(line)
            answers.write(_line(_answer(job, command["stage"], command["index"], answers)))


def _end_with_parent() -> None:
    """A worker whose parent was killed must not go on: the next run would find its task taken."""
    poll = select.poll()
    poll.register(0, select.POLLHUP)
    poll.poll()
    os._exit(0)


def _answer(job: Job, stage: str, index: int, answers: FileIO) -> dict[str, Any]:
    """Do one task and tell of its progress on the way."""
    told, waiting = time.monotonic(), 0

    def advance(size: int) -> None:
        nonlocal told, waiting
        waiting += size
        if time.monotonic() - told > _SECONDS_BETWEEN_REPORTS:
            answers.write(_line({"advance": waiting}))
            told, waiting = time.monotonic(), 0

    return outcome(job, stage, index, advance)


def outcome(job: Job, stage: str, index: int, advance: Advance = lambda size: None) -> dict[str, Any]:
    """Do one task for a process elsewhere; what `failure` makes an exception of is returned, not raised."""
    try:
        run_task(job, stage, index, advance)
    except DataError as error:
        return {"error": str(error), "fast_encoder_differs": isinstance(error, FastEncoderDiffers)}
    except MemoryError:
        return {
            "error": f"task {index} of {stage} ran out of memory; lower execution.workers or "
            "execution.memory_per_worker and give the same command again: it goes on where it stopped."
        }
    except Exception as error:  # a mistake of ours: the trace is for whoever mends it
        traceback.print_exc()
        return {"error": f"task {index} of {stage} failed: {type(error).__name__}: {error}."}
    return {"done": True}


def failure(message: dict[str, Any]) -> DataError | None:
    """The exception that an `outcome` stands for; None when the task is done."""
    if "error" not in message:
        return None
    return (FastEncoderDiffers if message.get("fast_encoder_differs") else DataError)(message["error"])


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message, ensure_ascii=False).encode() + b"\n"


def main(arguments: list[str]) -> int:
    """Run as a program; returns the exit code."""
    root, descriptor = arguments
    try:
        serve(Path(root), int(descriptor))
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
