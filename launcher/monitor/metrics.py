"""metrics.jsonl, the console and TensorBoard, fed from the step without holding it up.

The step hands over tensors that are still being computed; a thread waits for them and does all reading and writing.
"""

import contextlib
import json
import math
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from launcher.monitor.clock import Mark


@dataclass(frozen=True)
class StepRecord:
    """What the loop knows of a step when it has been queued on the device."""

    step: int
    started: Mark
    ended: Mark
    ready: Mark
    """From here on `values` may be read."""
    values: Tensor
    """fp32 [n] on the host, by the names in `names`; a copy from the device may still be under way."""
    names: tuple[str, ...]
    fields: dict[str, Any]
    """What is known on the host already."""


class Sink(Protocol):
    """Takes the finished line of each step."""

    def write(self, line: dict[str, Any]) -> None:
        """Take one line."""

    def close(self) -> None:
        """No more lines will come."""


class MetricsWriter:
    """Turns step records into lines and gives them to the sinks, in its own thread.

    Args:
        finish: completes a line (throughput and the like) given the step's seconds on the device.
        sinks: where lines go; none on ranks other than the first.
    """

    def __init__(self, finish: Callable[[dict[str, Any], float], None], sinks: list[Sink]) -> None:
        self._finish, self._sinks = finish, sinks
        self._queue: queue.Queue[StepRecord | None] = queue.Queue()
        self._error: Exception | None = None
        self.not_finite: int | None = None
        """The first step whose loss or gradient norm was not a finite number."""
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._thread.start()

    def push(self, record: StepRecord) -> None:
        """Hand over a step; returns at once."""
        if self._error is not None:
            raise self._error
        self._queue.put(record)

    def flush(self) -> None:
        """Wait until every step handed over has been written; raise the error of one that could not be."""
        self._queue.join()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Write what is left and close the sinks; raise the error of a step that could not be written."""
        self._queue.put(None)
        self._thread.join()
        for sink in self._sinks:
            sink.close()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> "MetricsWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
            return
        with contextlib.suppress(Exception):  # the error under way says more
            self.close()

    def _run(self) -> None:
        while (record := self._queue.get()) is not None:
            try:
                self._write(record)
            except Exception as error:  # handed to the loop, which raises it at the next step
                self._error = error
            finally:
                self._queue.task_done()

    def _write(self, record: StepRecord) -> None:
        seconds = record.ended.seconds_since(record.started)
        record.ready.wait()
        values = dict(zip(record.names, record.values.tolist(), strict=True))
        if self.not_finite is None and not all(map(math.isfinite, values.values())):
            self.not_finite = record.step
        line = {"step": record.step, **values, **record.fields}
        self._finish(line, seconds)
        for sink in self._sinks:
            sink.write(line)


class JsonLines:
    """metrics.jsonl: one line a step, flushed at once."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")

    def write(self, line: dict[str, Any]) -> None:
        """Append the line; what is not a finite number becomes null, which every JSON reader takes."""
        clean = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
        self._file.write(json.dumps(clean) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Make it durable."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class TensorBoard:
    """Scalars for TensorBoard, one tag a metric."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard.writer import SummaryWriter

        # Lines of an earlier, killed attempt at or after this step are superseded.
        self._writer = SummaryWriter(str(folder), purge_step=first_step)

    def write(self, line: dict[str, Any]) -> None:
        """Add every number of the line, and of the groups in it as GROUP/NAME."""
        groups = {name: value for name, value in line.items() if isinstance(value, dict)}
        flat = line | {f"{name}/{key}": value for name, group in groups.items() for key, value in group.items()}
        for name, value in flat.items():
            if name != "step" and isinstance(value, int | float):
                self._writer.add_scalar(name, value, line["step"])

    def close(self) -> None:
        """Write out what is buffered."""
        self._writer.close()


def pack(values: dict[str, Tensor]) -> tuple[Tensor, tuple[str, ...]]:
    """Scalars on the device as one fp32 vector on the host, copied without waiting for it."""
    vector = torch.stack([value.detach().float() for value in values.values()])
    if vector.is_cuda:
        vector = vector.to("cpu", non_blocking=True)
    return vector, tuple(values)
