"""Memory: of a process as the operating system counts it, of a GPU as torch does, of what an engine holds."""

import contextlib
import math
from pathlib import Path

import torch

from launcher.engines import Engine
from launcher.engines.torch_engine import TorchEngine
from megamodel.optim.adamw import MOMENTS
from megamodel.parallel.shard import local_part


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
    """Bytes of what a rank holds of the parameters, their gradients and moments, and of the largest whole parameter."""
    state = engine.state()
    sizes = {
        kind: sum(piece.nbytes for name, h in state.items() if name.startswith(f"{kind}/") for _, piece in h.pieces)
        for kind in ("param", *MOMENTS)
    }
    copies = engine.named_copies() if isinstance(engine, TorchEngine) else ()
    copied = sum(local_part(parameter.data).nbytes for _, parameter in copies)
    return {
        "parameter_bytes": sizes["param"] + copied,
        "gradient_bytes": sizes["param"] + copied,
        "moment_bytes": sum(sizes[moment] + copied for moment in MOMENTS),
        "largest_parameter_bytes": max(math.prod(h.shape) * h.dtype.itemsize for h in state.values()),
    }
