"""One optimizer step of a configured run, measured on this device, alone or against transformers in a plain loop."""

import os
import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch

from launcher.cluster.ranks import Ranks
from launcher.config import RunConfig
from launcher.engines.single import SingleEngine
from launcher.errors import CheckFailed
from megamodel import flops
from tools.bench.transformers_step import transformers_step
from tools.bench.workload import LR, Step, Workload, make_workload

_WARMUP_STEPS = 2
_LOSSES_AGREE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


def measure_step(config: RunConfig, rounds: int = 10, against_transformers: bool = False) -> dict[str, Any]:
    """Time forward, backward, clipping and AdamW of one rank's share of the batch, by the engine `single`.

    Rounds alternate between ours, theirs and a large matrix product, so that a disturbance meets all; medians count.
    Raises CheckFailed when the losses of transformers' steps, made from the same weights, are not ours.
    """
    threads = _use_rank_threads(config)
    work = make_workload(config)
    steps = {"ours": our_step(work)}
    if against_transformers:
        steps["transformers"] = transformers_step(work)
    seconds, losses, matmul = _alternate(steps, work, rounds)
    result = _describe(work, threads, rounds) | _rates(work, seconds["ours"], matmul)
    if against_transformers:
        result["transformers"] = _compare(work, seconds, losses)
    return result


def our_step(work: Workload) -> Step:
    """The engine `single`, as training uses it."""
    engine = SingleEngine(work.config, Ranks(0, 1, work.device))
    return lambda: engine.train_step(work.micro_batches, work.tokens, LR).loss


def _use_rank_threads(config: RunConfig) -> int:
    """As many CPU threads as `megamodel train` gives each rank."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // (config.engine.ranks or 1)))
    return torch.get_num_threads()


def _alternate(
    steps: dict[str, Step], work: Workload, rounds: int
) -> tuple[dict[str, float], dict[str, list[float]], float]:
    """Median seconds and all losses of each contender, and the median FLOP/s of a matrix product."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    losses: dict[str, list[float]] = {name: [] for name in steps}
    matmul = []
    for number in range(_WARMUP_STEPS + rounds):
        for name in _order(list(steps), number):
            started = time.perf_counter()
            losses[name].append(float(steps[name]()))  # waits for the device
            if number >= _WARMUP_STEPS:
                seconds[name].append(time.perf_counter() - started)
        matmul.append(flops.measured_matmul_flops(work.device, work.dtype, rounds=3))
    return {name: statistics.median(times) for name, times in seconds.items()}, losses, statistics.median(matmul)


def _order(names: Sequence[str], number: int) -> list[str]:
    """Each goes first every other round: going second, with caches as the first left them, is not the same."""
    return list(names) if number % 2 == 0 else list(reversed(names))


def _describe(work: Workload, threads: int, rounds: int) -> dict[str, Any]:
    on_gpu = work.device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(work.device) if on_gpu else "cpu",
        "cpu_threads": threads,
        "dtype": str(work.dtype).removeprefix("torch."),
        "matrix_parameters": flops.matmul_parameters(work.config.model),
        "micro_batches": len(work.micro_batches),
        "micro_batch_size": work.config.train.micro_batch_size,
        "seq_len": work.config.train.seq_len,
        "rounds": rounds,
    }


def _rates(work: Workload, seconds: float, matmul: float) -> dict[str, Any]:
    per_token = flops.flops_per_token(work.config.model, work.config.train.seq_len)
    achieved = per_token * work.tokens / seconds
    peak = flops.peak_flops(work.device, work.dtype)
    return {
        "milliseconds_per_step": seconds * 1e3,
        "tokens_per_second": work.tokens / seconds,
        "convention": flops.CONVENTION,
        "flops_per_token": per_token,
        "achieved_flops": achieved,
        "peak_flops": peak,
        "mfu": achieved / peak if peak else None,
        "matmul_flops": matmul,
        "share_of_matmul": achieved / matmul,
    }


def _compare(work: Workload, seconds: dict[str, float], losses: dict[str, list[float]]) -> dict[str, Any]:
    import transformers

    pairs = list(zip(losses["ours"], losses["transformers"], strict=True))
    apart = max(abs(ours - theirs) / abs(theirs) for ours, theirs in pairs)
    if not apart <= _LOSSES_AGREE[work.dtype]:
        raise CheckFailed(
            f"transformers does not make the same steps: losses differ by up to {apart:.1e} of their value "
            f"({_LOSSES_AGREE[work.dtype]:.0e} is allowed), so its time says nothing about ours."
        )
    return {
        "version": transformers.__version__,
        "milliseconds_per_step": seconds["transformers"] * 1e3,
        "tokens_per_second": work.tokens / seconds["transformers"],
        "their_time_over_ours": seconds["transformers"] / seconds["ours"],
        "largest_loss_difference": apart,
    }
