"""The one order in which a model is cut and prepared.

Pipeline split; tensor and sequence; context; activation checkpointing; compile for each block; data parallel. Each step
works on what the ones before it left: the parts of a pipeline are cut by tp before anything else sees their weights,
recomputation must repeat the collectives of tp and cp, compile must see all of that, and FSDP2 shards what is left.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from megamodel.config import ModelConfig
from megamodel.gpt import GPT, Part
from megamodel.parallel.context import apply_context_parallel
from megamodel.parallel.memory import checkpoint_activations, compile_blocks, offload_activations
from megamodel.parallel.mesh import Layout
from megamodel.parallel.shard import Within
from megamodel.parallel.tensor import apply_tensor_parallel


@dataclass(frozen=True)
class BlockSettings:
    """How a block computes: see the settings of the same names in the run's `engine`."""

    activation_checkpointing: str = "none"
    activation_checkpointing_nth: int = 2
    activation_memory_budget: float = 0.5
    offload_activations: bool = False
    compile: bool = False


@dataclass(frozen=True)
class ShardSettings:
    """How FSDP2 gathers: see the settings of the same names in the run's `engine`."""

    reshard_after_forward: bool = True
    prefetch_blocks: int = 1


@dataclass(frozen=True)
class Plan:
    """All that decides how the model is cut."""

    layout: Layout
    mesh: DeviceMesh
    """See `Layout.parameter_mesh`."""
    cp_group: dist.ProcessGroup | None
    """The ranks that share this rank's sequences."""
    cp_method: str
    blocks: BlockSettings
    shards: ShardSettings


def build_part(config: ModelConfig, dtype: torch.dtype, part: Part, plan: Plan) -> tuple[GPT, dict[str, Within]]:
    """This rank's share of one part of the model, on the meta device, cut and prepared in the order above.

    Beside it what tp has cut: where each parameter lies in the whole one.
    """
    with torch.device("meta"):
        model = GPT(config, dtype, part)
    cuts = apply_tensor_parallel(model, plan.mesh.get_group("tp")) if plan.layout.tp > 1 else {}
    if plan.cp_group is not None:
        apply_context_parallel(model, plan.cp_group, plan.cp_method)
    prepare_blocks(model, plan.blocks, fullgraph=plan.cp_group is None)
    axes = ("dp_replicate", "dp_shard_cp") if plan.layout.dp_replicate > 1 else "dp_shard_cp"
    shard_data_parallel(model, plan.mesh[axes], plan.shards)
    return model, cuts


def prepare_blocks(model: GPT, settings: BlockSettings, fullgraph: bool = True) -> None:
    """Checkpoint, compile and offload every block in place; parameter names stay as they are."""
    mode = settings.activation_checkpointing
    checkpoint_activations(model.blocks, mode, settings.activation_checkpointing_nth)
    if settings.compile:
        budget = settings.activation_memory_budget if mode == "memory_budget" else None
        compile_blocks(model.blocks, budget, fullgraph)
    if settings.offload_activations:
        offload_activations(model.blocks)


def shard_data_parallel(model: GPT, mesh: DeviceMesh, settings: ShardSettings) -> None:
    """FSDP2 over a mesh of one axis (shard) or two (replicate, shard: HSDP), one unit a block and one for the rest.

    Gradients are summed, not averaged: the loss is divided by the global count of target tokens before the backward
    pass. Parameters compute in the model's compute type; gradients are reduced in fp32.
    """
    policy = MixedPrecisionPolicy(param_dtype=model.compute_dtype, reduce_dtype=torch.float32)
    blocks = [
        fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=settings.reshard_after_forward)
        for block in model.blocks
    ]
    fully_shard(model, mesh=mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)
    if settings.prefetch_blocks > 1:  # one is what FSDP2 does by itself
        for index, block in enumerate(blocks):
            block.set_modules_to_forward_prefetch(blocks[index + 1 : index + 1 + settings.prefetch_blocks])
            block.set_modules_to_backward_prefetch(blocks[max(0, index - settings.prefetch_blocks) : index][::-1])
