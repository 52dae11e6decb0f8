"""What each of several ranks needs to attend over one long sequence together, beside one process that attends alone."""

import multiprocessing
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

from launcher.errors import CheckFailed, UserError
from megamodel.parallel.context import tokens_of_rank
from tools.bench.context_rank import Workload, alone, shared
from tools.verify.progress import shown

Call = tuple[Callable[..., None], tuple[Any, ...]]


def measure_context(workload: Workload) -> dict[str, Any]:
    """Attend, forward and backward, in ranks and then alone where that fits; compare the results.

    Returns the workload's numbers, device, scores_bytes (of the whole matrix of scores in the compute type, which
    nobody should hold), per_rank and alone (peak_bytes, largest_bytes, seconds each; alone is None where one process
    has not the memory), and largest_difference: over the values and gradients, relative to the largest of each.

    Raises:
        UserError: the numbers do not go together.
        CheckFailed: a rank failed.
    """
    _check(workload)
    with tempfile.TemporaryDirectory(prefix="megamodel-") as temporary:
        folder = Path(temporary)
        runs = _runs(workload, folder)
        for name in shown(list(runs), lambda name: f"attention over {workload.seq_len:,} tokens, {name}"):
            _run(runs[name])
        ranks = [_read(folder / f"rank_{rank}") for rank in range(workload.ranks)]
        single = _read(folder / "alone") if (folder / "alone").exists() else None
    element = 2 if workload.on_gpus else 4
    return {
        **asdict(workload),
        "device": torch.cuda.get_device_name() if workload.on_gpus else "CPU",
        "scores_bytes": workload.heads * workload.seq_len**2 * element,
        "largest_difference": None if single is None else _difference(workload, ranks, single),
        "per_rank": [_figures(rank) for rank in ranks],
        "alone": None if single is None else _figures(single),
    }


def _check(workload: Workload) -> None:
    ranks, seq_len = workload.ranks, workload.seq_len
    if seq_len % (2 * ranks):
        nearest = max(1, round(seq_len / (2 * ranks))) * 2 * ranks
        raise UserError(
            f"--seq-len {seq_len} cannot be cut into the {2 * ranks} pieces that {ranks} ranks share; take {nearest}."
        )
    if workload.heads % workload.kv_heads:
        raise UserError(f"--heads {workload.heads} is not a multiple of --kv-heads {workload.kv_heads}.")
    if workload.method == "ulysses" and workload.heads % ranks:
        raise UserError(
            f"Ulysses shares out heads, and --heads {workload.heads} is not a multiple of --ranks {ranks}; "
            "--method ring has no such limit."
        )


def _runs(workload: Workload, folder: Path) -> dict[str, list[Call]]:
    """By name, what is to be measured one after the other: a call for each process."""
    cores = os.cpu_count() or 1
    threads = max(1, cores // workload.ranks)
    runs: dict[str, list[Call]] = {
        f"{workload.ranks} ranks": [(shared, (workload, rank, folder, threads)) for rank in range(workload.ranks)]
    }
    if _alone_bytes(workload) < _free_bytes(workload):
        runs["one process alone"] = [(alone, (workload, folder, cores))]
    return runs


def _run(calls: list[Call]) -> None:
    """Make each call in a process of its own; when one fails, the others are ended."""
    context = multiprocessing.get_context("forkserver")  # imports torch once; nothing of this process is inherited
    context.set_forkserver_preload([shared.__module__])
    processes = [context.Process(target=function, args=arguments) for function, arguments in calls]
    for process in processes:
        process.start()
    try:
        while (running := [p for p in processes if p.exitcode is None]) and not any(p.exitcode for p in processes):
            wait([process.sentinel for process in running])
    finally:
        for process in processes:
            process.kill()
            process.join()
    failed = next((rank for rank, process in enumerate(processes) if process.exitcode), None)
    if failed is not None:
        code = processes[failed].exitcode
        memory = " It was killed, most likely for want of memory: try a shorter --seq-len." if code == -9 else ""
        raise CheckFailed(f"rank {failed} of {len(processes)} ended with code {code}.{memory}")


def _read(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = torch.load(path, weights_only=True)
    return result


def _figures(result: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in result.items() if name != "tensors"}


def _difference(workload: Workload, ranks: list[dict[str, Any]], single: dict[str, Any]) -> float:
    order = torch.cat([tokens_of_rank(workload.seq_len, workload.ranks, r, workload.method) for r in range(len(ranks))])
    largest = 0.0
    for index, whole in enumerate(single["tensors"]):
        joined = torch.cat([rank["tensors"][index] for rank in ranks], dim=2)
        off = (joined.float() - whole[:, :, order].float()).abs().max() / whole.abs().max()
        largest = max(largest, float(off))
    return largest


def _alone_bytes(workload: Workload) -> int:
    """About what one process needs: with documents, their mask as booleans and twice in the compute type."""
    mask = 9 * workload.seq_len**2 if workload.document_tokens else 0
    return mask + 16 * 4 * (workload.heads + workload.kv_heads) * workload.seq_len * workload.head_size


def _free_bytes(workload: Workload) -> int:
    if workload.on_gpus:
        return torch.cuda.mem_get_info()[0]
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
