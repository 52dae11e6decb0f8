"""The one order in which a model is prepared: activation checkpointing, compile for each block, data parallel."""

from collections.abc import Callable
from functools import wraps

import torch
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint

from megamodel.gpt import GPT


def prepare_blocks(model: GPT, activation_checkpointing: str, compile_blocks: bool) -> None:
    """Checkpoint and compile every block in place; parameter names stay as they are."""
    if activation_checkpointing == "full":
        for block in model.layers.values():
            block.forward = _checkpointed(block.forward)
    if compile_blocks:
        for block in model.layers.values():
            block.compile(fullgraph=True)


def shard_data_parallel(model: GPT, mesh: DeviceMesh) -> None:
    """FSDP2 over a mesh of one axis (shard) or two (replicate, shard: HSDP), one unit a block and one for the rest.

    Gradients are summed, not averaged: the loss is divided by the global count of target tokens before the backward
    pass. Parameters compute in the model's compute type; gradients are reduced in fp32.
    """
    policy = MixedPrecisionPolicy(param_dtype=model.compute_dtype, reduce_dtype=torch.float32)
    for block in model.layers.values():
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def _checkpointed(forward: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Keep only the inputs of `forward` and run it again in the backward pass."""

    @wraps(forward)
    def run(*args: object) -> Tensor:
        # Nothing in a block draws random numbers, so their state need not be saved.
        return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False)

    return run
