"""What each way of keeping activations holds in memory between the forward and the backward pass, and what it costs."""

import contextlib
import os
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from launcher.cluster.ranks import Ranks
from launcher.config import RunConfig
from launcher.engines.single import SingleEngine
from tools.bench.workload import Workload, make_workload

_MODES: tuple[dict[str, Any], ...] = (
    {"activation_checkpointing": "none"},
    {"activation_checkpointing": "selective"},
    {"activation_checkpointing": "every_nth", "activation_checkpointing_nth": 2},
    {"activation_checkpointing": "full"},
)
_BUDGETS: tuple[dict[str, Any], ...] = tuple(
    {"activation_checkpointing": "memory_budget", "activation_memory_budget": budget} for budget in (0.75, 0.5, 0.25)
)


@dataclass(frozen=True)
class Kept:
    """One mode, measured on one micro-batch."""

    settings: dict[str, Any]
    bytes: int
    """Allocated after the forward pass and not before: activations, and the loss's gradients."""
    milliseconds: float
    """Median of forward and backward."""
    loss: float


def measure_activations(config: RunConfig, rounds: int) -> list[Kept]:
    """Every mode on the run's model and micro-batch, on this machine's device; the first one keeps everything.

    Memory budgets are measured where engine.compile is set, and offloading on a GPU.
    """
    work = make_workload(config)
    modes = _MODES + (_BUDGETS if config.engine.compile else ())
    if work.device.type == "cuda":
        modes += tuple(mode | {"offload_activations": True} for mode in (_MODES[0], _MODES[-1]))
    return [_measure(mode, work, rounds) for mode in modes]


def _measure(mode: dict[str, Any], work: Workload, rounds: int) -> Kept:
    # One mode after the other: what is compiled for one would serve the next, which has the same shapes.
    torch.compiler.reset()
    engine = _engine(work, mode)
    _seconds(engine, work)
    kept, loss = _kept(engine, work)
    return Kept(mode, kept, statistics.median(_seconds(engine, work) for _ in range(rounds)) * 1e3, loss)


def _engine(work: Workload, mode: dict[str, Any]) -> SingleEngine:
    settings = {"activation_checkpointing": "none", "offload_activations": False, "name": "single"} | mode
    config = work.config.model_copy(update={"engine": work.config.engine.model_copy(update=settings)})
    return SingleEngine(config, Ranks(0, 1, work.device))


def _pass(engine: SingleEngine, work: Workload) -> Tensor:
    inputs = engine.inputs(work.micro_batches[0])
    loss: Tensor = engine.module(inputs.ids, inputs.targets, None, inputs.positions, inputs.documents)
    return loss


def _kept(engine: SingleEngine, work: Workload) -> tuple[int, float]:
    if work.device.type == "cuda":
        before = torch.cuda.memory_allocated(work.device)
        loss = _pass(engine, work)
        return torch.cuda.memory_allocated(work.device) - before, loss.item()
    with _silent_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        loss = _pass(engine, work)
    return sum(event.self_cpu_memory_usage for event in profiler.key_averages()), loss.item()


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """The profiler's C++ tells of its start and its end there, and has no setting against it."""
    sys.stderr.flush()
    before, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(nowhere)


def _seconds(engine: SingleEngine, work: Workload) -> float:
    started = time.perf_counter()
    loss = _pass(engine, work)
    loss.backward()
    loss.item()
    if work.device.type == "cuda":
        torch.cuda.synchronize(work.device)
    return time.perf_counter() - started
