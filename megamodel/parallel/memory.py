"""What of a block's activations is kept for the backward pass, and where."""

from collections.abc import Callable, Iterable
from functools import partial, wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch._functorch import config as partitioner
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts

from megamodel.parallel.shard import local_part

Forward = Callable[..., Tensor]

_aten = torch.ops.aten
_PRODUCTS = [
    _aten.mm.default,
    _aten.addmm.default,
    _aten.bmm.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_efficient_attention.default,
    _aten._scaled_dot_product_cudnn_attention.default,
]
"""What is costly to compute again: kept under `selective`. The rest reads and writes memory and computes little."""


def checkpoint_activations(blocks: Iterable[nn.Module], mode: str, nth: int) -> None:
    """Make blocks compute activations again in the backward pass, in place, before they are compiled.

    Args:
        blocks: the blocks in their order.
        mode: full (each keeps its inputs alone, arXiv:1604.06174), every_nth (so do blocks 0, n, 2n, ...), selective
            (each also keeps the results of its products and of attention, after arXiv:2205.05198); others: nothing.
        nth: the n of every_nth.
    """
    for number, block in enumerate(blocks):
        if mode in ("full", "selective") or (mode == "every_nth" and number % nth == 0):
            block.forward = _computed_again(block.forward, selective=mode == "selective")


def compile_blocks(blocks: Iterable[nn.Module], memory_budget: float | None, fullgraph: bool) -> None:
    """Compile each block's forward pass, in place; hooks of FSDP2 stay outside.

    Args:
        blocks: the blocks.
        memory_budget: share of the activations, 0 to 1, that the compiler may keep; it computes again what is cheapest
            to compute. None: as the blocks are written.
        fullgraph: refuse what cannot be compiled into one graph.
    """
    for block in blocks:
        compiled: Forward = torch.compile(block.forward, fullgraph=fullgraph)
        block.forward = compiled if memory_budget is None else _within_budget(compiled, memory_budget)


def offload_activations(blocks: Iterable[nn.Module]) -> None:
    """Keep what the blocks' backward passes need in the machine's memory, in place, after the blocks were compiled.

    What `selective` keeps of a block that is not compiled stays on the device: only the block's inputs leave it.
    """
    for block in blocks:
        block.forward = _offloaded(block, block.forward)


def _computed_again(forward: Forward, selective: bool) -> Forward:
    """Keep the inputs of `forward`, and results of products if `selective`, and run it again in the backward pass."""
    contexts: dict[str, Any] = {}
    if selective:
        contexts["context_fn"] = partial(create_selective_checkpoint_contexts, _PRODUCTS)

    @wraps(forward)
    def run(*args: object) -> Tensor:
        # Nothing in a block draws random numbers, so their state need not be saved.
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **contexts)

    return run


def _within_budget(forward: Forward, budget: float) -> Forward:
    """Set the budget while `forward` compiles, which is when it first runs."""

    @wraps(forward)
    def run(*args: object) -> Tensor:
        with partitioner.patch(activation_memory_budget=budget):
            return forward(*args)

    return run


def _offloaded(block: nn.Module, forward: Forward) -> Forward:
    @wraps(forward)
    def run(*args: object) -> Tensor:
        # Weights stay where they are anyway; FSDP2 has put the gathered ones into the block by now.
        weights = {local_part(p).untyped_storage().data_ptr() for p in block.parameters()}

        def pack(saved: Tensor) -> tuple[torch.device, Tensor]:
            stays = not saved.is_cuda or saved.untyped_storage().data_ptr() in weights
            return saved.device, saved if stays else _to_host(saved)

        with saved_tensors_hooks(pack, lambda packed: packed[1].to(packed[0], non_blocking=True)):
            return forward(*args)

    return run


def _to_host(tensor: Tensor) -> Tensor:
    """A copy in pinned memory, to and from which the GPU copies by itself while the host goes on."""
    host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return host.copy_(tensor, non_blocking=True)
