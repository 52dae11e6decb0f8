"""Tensor and sequence parallelism: the ranks of the tp axis share every matrix, and between them the sequence.

After Megatron-LM (arXiv:1909.08053, arXiv:2205.05198). Inside attention and MLP each rank has all tokens and some of
the heads or features; outside, some of the tokens and all features. What leaves a pair of matrices is a sum over the
ranks: it is added up and dealt out by tokens in one collective.
"""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed._functional_collectives import all_gather_tensor_autograd, reduce_scatter_tensor_autograd
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor

from megamodel.gpt import GPT, Embedding
from megamodel.layers.attention import Attention
from megamodel.layers.linear import Linear
from megamodel.layers.loss import HeadLoss, Vocabulary, head_cross_entropy
from megamodel.layers.mlp import MLP
from megamodel.layers.weights import in_use
from megamodel.parallel.shard import local_box


class Cut(StrEnum):
    """How a module's weights are cut, and what it takes and gives."""

    WORDS = "by words: looks up its own, the sum is dealt out by tokens"
    WHOLE = "whole: each rank uses it on its own tokens"
    OUTPUTS = "by output features (heads): takes all tokens, gives its own features"
    INPUTS = "by input features: takes its own, the sum is dealt out by tokens; the bias is whole"
    HEAD = "by words: takes all tokens; logits are never gathered, only their maxima and sums"


TABLE: tuple[tuple[str, Cut], ...] = (
    ("embed_tokens", Cut.WORDS),
    ("embed_positions", Cut.WHOLE),
    ("layers.*.input_layernorm", Cut.WHOLE),
    ("layers.*.self_attn.q_proj", Cut.OUTPUTS),
    ("layers.*.self_attn.k_proj", Cut.OUTPUTS),
    ("layers.*.self_attn.v_proj", Cut.OUTPUTS),
    ("layers.*.self_attn.o_proj", Cut.INPUTS),
    ("layers.*.post_attention_layernorm", Cut.WHOLE),
    ("layers.*.mlp.gate_proj", Cut.OUTPUTS),
    ("layers.*.mlp.up_proj", Cut.OUTPUTS),
    ("layers.*.mlp.down_proj", Cut.INPUTS),
    ("norm", Cut.WHOLE),
    ("lm_head", Cut.HEAD),
)
"""Module and cut, for every architecture: GPT-2 has no gate_proj, Llama no embed_positions, a tied head no lm_head."""

_CUTS = dict(TABLE)
_WEIGHT_DIM = {Cut.WORDS: 0, Cut.OUTPUTS: 0, Cut.INPUTS: 1, Cut.HEAD: 0}


def cut_of(parameter: str) -> tuple[Cut, int | None]:
    """The cut of a parameter's module, and the dimension along which it is cut; None: every rank has it whole."""
    module, kind = parameter.rsplit(".", 1)
    cut = _CUTS[re.sub(r"\d+", "*", module)]
    if kind == "bias":
        return cut, 0 if cut is Cut.OUTPUTS else None
    return cut, _WEIGHT_DIM.get(cut)


def apply_tensor_parallel(model: GPT, mesh: DeviceMesh) -> None:
    """Cut a part of a model, still on the meta device, over a mesh of the one axis tp; see TABLE."""
    group = mesh.get_group()
    for name, module in model.named_modules():
        for kind, parameter in module.named_parameters(recurse=False):
            _, dim = cut_of(f"{name}.{kind}")
            placement = Replicate() if dim is None else Shard(dim)
            cut = nn.Parameter(distribute_tensor(parameter.data, mesh, [placement], src_data_rank=None))
            module.register_parameter(kind, cut)
    if model.part.first:
        _replace(model.embed_tokens, _own_words(model.embed_tokens, group))
        if model.config.position_embedding == "learned":
            _replace(model.embed_positions, _own_tokens(model.embed_positions, group))
    for block in model.blocks:
        for module, last in ((block.self_attn, block.self_attn.o_proj), (block.mlp, block.mlp.down_proj)):
            _replace(module, _all_tokens(module, group))
            _replace(last, _dealt_out(last, group))
    if model.part.last:
        model.head_loss = _SharedHeadLoss(group)


def gather_tokens(x_BtD: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[B, T/tp, D] of each rank to [B, T, D] on all; gradients are added up and dealt out."""
    return all_gather_tensor_autograd(x_BtD.contiguous(), gather_dim=1, group=group)


def deal_out_tokens(x_BTD: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Add up [B, T, D] over the ranks and give each its [B, T/tp, D]; gradients are gathered."""
    return reduce_scatter_tensor_autograd(x_BTD.contiguous(), "sum", scatter_dim=1, group=group)


def _replace(module: nn.Module, forward: Callable[..., Tensor]) -> None:
    module.forward = forward


def _own_words(table: Embedding, group: dist.ProcessGroup) -> Callable[[Tensor], Tensor]:
    words = local_box(table.weight)
    first, count = words.offset[0], words.shape[0]
    look_up = table.forward

    def forward(ids_BT: Tensor) -> Tensor:
        index = ids_BT - first
        other = (index < 0) | (index >= count)
        x_BTD = look_up(index.masked_fill(other, 0)).masked_fill(other[..., None], 0.0)
        return deal_out_tokens(x_BTD, group)

    return forward


def _own_tokens(table: Embedding, group: dist.ProcessGroup) -> Callable[[Tensor], Tensor]:
    ranks, rank = dist.get_world_size(group), dist.get_rank(group)
    look_up = table.forward
    return lambda positions: look_up(positions.chunk(ranks, dim=-1)[rank])


def _all_tokens(module: Attention | MLP, group: dist.ProcessGroup) -> Callable[..., Tensor]:
    compute = module.forward

    def forward(x_BtD: Tensor, *arguments: Any) -> Tensor:
        return compute(gather_tokens(x_BtD, group), *arguments)

    return forward


def _dealt_out(linear: Linear, group: dist.ProcessGroup) -> Callable[[Tensor], Tensor]:
    def forward(x: Tensor) -> Tensor:
        y_BtD = deal_out_tokens(F.linear(x, in_use(linear.weight, x.dtype)), group)
        return y_BtD if linear.bias is None else y_BtD + in_use(linear.bias, x.dtype)

    return forward


class _SharedVocabulary(Vocabulary):
    """The words of one rank of the tp axis."""

    def __init__(self, first: int, group: dist.ProcessGroup) -> None:
        self.first, self.group = first, group

    def maximum(self, values: Tensor) -> Tensor:
        """See `Vocabulary`."""
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self.group)
        return values

    def total(self, values: Tensor) -> Tensor:
        """See `Vocabulary`."""
        dist.all_reduce(values, group=self.group)
        return values


class _SharedHeadLoss(HeadLoss):
    """The loss with each rank's words' logits on that rank alone; every rank gets the whole loss."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.group = group

    def forward(self, x_BTD: Tensor, weight_VD: Tensor, targets_BT: Tensor) -> Tensor:
        """See `head_cross_entropy`; takes this rank's tokens of `x_BTD` and all targets."""
        x_ND = gather_tokens(x_BTD, self.group).flatten(0, 1)
        vocabulary = _SharedVocabulary(local_box(weight_VD).offset[0], self.group)
        return head_cross_entropy(x_ND, in_use(weight_VD, weight_VD.dtype), targets_BT.flatten(), vocabulary)
