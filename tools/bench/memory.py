"""Memory of a rank: of its process as the operating system counts it, of its GPU as torch does, of what it holds."""

import itertools
import math
import os

import torch

from launcher.engines import Engine
from launcher.engines.torch_engine import TorchEngine
from megamodel.optim.adamw import MOMENTS
from megamodel.parallel.shard import Holding
from tools.bench.processes import field, reset_peak


class PeakMemory:
    """The most memory that this process takes from now on, beyond what it has now: libraries and the interpreter."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = 0
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        else:
            reset_peak(os.getpid())
            self.before = field(os.getpid(), "status", "VmRSS")

    def bytes(self) -> int:
        """The peak so far, of the GPU's memory or of the process."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        return field(os.getpid(), "status", "VmHWM") - self.before


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
