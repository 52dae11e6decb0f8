"""Memory: of a process as the operating system counts it, of a GPU as torch does, of what an engine holds."""

import contextlib
import itertools
import math
from pathlib import Path

import torch

from launcher.engines import Engine
from launcher.engines.torch_engine import TorchEngine
from megamodel.optim.adamw import MOMENTS
from megamodel.parallel.shard import Holding


def _field(file: Path, name: str) -> int:
    """A field of one of Linux's files about a process, in bytes."""
    line = next(line for line in file.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def proportional(pid: int) -> int:
    """Bytes of a process, what it shares with others divided among them (PSS); 0 when it has ended."""
    with contextlib.suppress(OSError, StopIteration):
        return _field(Path(f"/proc/{pid}/smaps_rollup"), "Pss")
    return 0


def descendants(pid: int) -> list[int]:
    """The processes that a process has started, and theirs."""
    try:
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return []
    return children + [below for child in children for below in descendants(child)]


class PeakMemory:
    """The most memory that this process takes from now on, beyond what it has now: libraries and the interpreter."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # sets VmHWM back to VmRSS
            self.before = _field(Path("/proc/self/status"), "VmRSS")

    def bytes(self) -> int:
        """The peak so far, of the GPU's memory or of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return _field(Path("/proc/self/status"), "VmHWM") - self.before


def held(engine: Engine) -> dict[str, int]:
    """Bytes of what a rank holds of the parameters, their gradients and AdamW's moments, and of the largest whole one.

    Gradients and moments lie where their parameter does, in fp32 as it is, and come into being with the first step.
    Nothing for an engine that is not torch's own: its `peak_bytes` must tell.
    """
    if not isinstance(engine, TorchEngine):
        return {}
    named = itertools.chain(engine.named_parameters(), engine.named_copies())
    parts = [Holding.of(parameter.data, engine.cuts.get(name)) for name, parameter in named]
    parameters = sum(piece.nbytes for part in parts for _, piece in part.pieces)
    return {
        "parameter_bytes": parameters,
        "gradient_bytes": parameters,
        "moment_bytes": len(MOMENTS) * parameters,
        "largest_parameter_bytes": max(math.prod(part.shape) * part.dtype.itemsize for part in parts),
    }
