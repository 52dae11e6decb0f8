"""Attention over one long sequence in one rank, watched: its memory, its largest tensor, its time."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from megamodel.layers.attention import causal_attention
from megamodel.parallel.context import context_attention, tokens_of_rank

_SELF = Path("/proc/self")
_TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class Workload:
    """One sequence of random queries, keys and values, and how it is shared.

    Attributes:
        method: "ring" or "ulysses".
        ranks: processes that share the sequence.
        seq_len: its tokens, a multiple of 2 x ranks.
        heads: query heads.
        kv_heads: key/value heads.
        head_size: width of a head.
        document_tokens: tokens of each document that the sequence is packed from; 0: it is one document.
    """

    method: str
    ranks: int
    seq_len: int
    heads: int
    kv_heads: int
    head_size: int
    document_tokens: int = 0

    @property
    def on_gpus(self) -> bool:
        """Whether every rank has a GPU of its own; then types are bf16, else fp32 on the CPU."""
        return torch.cuda.device_count() >= self.ranks

    def inputs(self, tokens: Tensor, device: torch.device) -> list[Tensor]:
        """Queries, keys, values and a gradient of the result, [1, heads, tokens, head_size], of some of the tokens.

        They are drawn a piece at a time, so that a rank draws its own alone, the same as one process draws.
        """
        length = self.seq_len // (2 * self.ranks)
        pieces = [self._draw(int(first) // length, length) for first in tokens[::length]]
        dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        return [torch.cat(parts, dim=2).to(device, dtype) for parts in zip(*pieces, strict=True)]

    def _draw(self, piece: int, length: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(piece)
        heads = (self.heads, self.kv_heads, self.kv_heads, self.heads)
        return [torch.randn(1, count, length, self.head_size, generator=generator) for count in heads]

    def documents(self, device: torch.device) -> Tensor | None:
        """Number of the document of every token of the sequence, [1, seq_len]; None where it is one."""
        if self.document_tokens == 0:
            return None
        return torch.arange(self.seq_len, device=device)[None] // self.document_tokens


class LargestTensor(TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation returns, backward passes included."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and look at its results; views count as what they show, not what they share."""
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, Tensor):
                self.bytes = max(self.bytes, value.nbytes)
        return result


def shared(workload: Workload, rank: int, folder: Path, threads: int) -> None:
    """Be one of the ranks that share the sequence; leave measurements and results in `folder`."""
    device = _prepare(workload, rank, threads)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=f"file://{folder}/store",
        rank=rank,
        world_size=workload.ranks,
        timeout=_TIMEOUT,
    )
    assert dist.group.WORLD is not None
    attend = context_attention(dist.group.WORLD, workload.method)
    result = watch(
        workload, attend, device, partial(tokens_of_rank, ranks=workload.ranks, rank=rank, method=workload.method)
    )
    torch.save(result, folder / f"rank_{rank}")
    dist.destroy_process_group()


def alone(workload: Workload, folder: Path, threads: int) -> None:
    """Attend over the sequence in this process only, as `shared` does in several."""
    device = _prepare(workload, 0, threads)
    torch.save(watch(workload, causal_attention, device, torch.arange), folder / "alone")


def _prepare(workload: Workload, rank: int, threads: int) -> torch.device:
    torch.set_num_threads(threads)
    if not workload.on_gpus:
        return torch.device("cpu")
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)


def watch(
    workload: Workload, attend: Callable[..., Tensor], device: torch.device, tokens_of: Callable[[int], Tensor]
) -> dict[str, Any]:
    """One forward and backward pass by `attend`, of the tokens, among seq_len, that `tokens_of(seq_len)` names.

    Returns peak_bytes above what the process held before, largest_bytes of one tensor, seconds, and tensors: the values
    and the gradients of queries, keys and values.
    """
    warm = replace(workload, seq_len=2 * workload.ranks)
    with LargestTensor():  # imports, loads kernels, connects ranks
        _attend(warm, attend, device, tokens_of(warm.seq_len))
    peak = _peak_bytes(device)
    with LargestTensor() as largest:
        seconds, tensors = _attend(workload, attend, device, tokens_of(workload.seq_len))
    return {"peak_bytes": peak(), "largest_bytes": largest.bytes, "seconds": seconds, "tensors": tensors}


def _attend(
    workload: Workload, attend: Callable[..., Tensor], device: torch.device, tokens: Tensor
) -> tuple[float, list[Tensor]]:
    """Seconds; the values and the gradients of queries, keys and values."""
    *leaves, grad = workload.inputs(tokens, device)
    for leaf in leaves:
        leaf.requires_grad_()
    documents = workload.documents(device)
    start = time.perf_counter()
    out = attend(*leaves, documents)
    out.backward(grad)
    tensors = [tensor.cpu() for tensor in (out.detach(), *(leaf.grad for leaf in leaves)) if tensor is not None]
    return time.perf_counter() - start, tensors


def _peak_bytes(device: torch.device) -> Callable[[], int]:
    """A function that tells the most memory held at once since now, above what is held now."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.max_memory_allocated
    if not (_SELF / "clear_refs").exists():  # not Linux: the peak since the process began
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    (_SELF / "clear_refs").write_text("5")  # sets the peak, VmHWM, to what is resident now
    now = _resident_peak()
    return lambda: _resident_peak() - now


def _resident_peak() -> int:
    fields = dict(line.split(":", 1) for line in (_SELF / "status").read_text().splitlines())
    return int(fields["VmHWM"].split()[0]) * 1024
