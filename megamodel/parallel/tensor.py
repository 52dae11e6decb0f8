"""Tensor and sequence parallelism: the ranks of the tp axis share every matrix, and between them the sequence.

After Megatron-LM (arXiv:1909.08053, arXiv:2205.05198). Inside attention and MLP each rank has all tokens and some of
the heads or features; outside, some of the tokens and all features. What leaves a pair of matrices is a sum over the
ranks: it is added up and dealt out by tokens in one collective.
"""

import re
from collections.abc import Callable
from enum import StrEnum
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from megamodel.gpt import GPT, Embedding
from megamodel.layers.attention import Attention
from megamodel.layers.linear import Linear
from megamodel.layers.loss import HeadLoss, Vocabulary, head_cross_entropy
from megamodel.layers.mlp import MLP
from megamodel.parallel.shard import Box, Within


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

_OPS = torch.ops._c10d_functional
_CUTS = dict(TABLE)
_WEIGHT_DIM = {Cut.WORDS: 0, Cut.OUTPUTS: 0, Cut.INPUTS: 1, Cut.HEAD: 0}


def cut_dim(parameter: str) -> int | None:
    """The dimension along which a parameter is cut; None: every rank has it whole."""
    module, kind = parameter.rsplit(".", 1)
    cut = _CUTS[re.sub(r"\d+", "*", module)]
    if kind == "bias":
        return 0 if cut is Cut.OUTPUTS else None
    return _WEIGHT_DIM.get(cut)


def apply_tensor_parallel(model: GPT, group: dist.ProcessGroup) -> dict[str, Within]:
    """Cut a part of a model, still on the meta device, over the ranks of a group; see TABLE.

    Returns where in the whole each parameter that is left lies. What a rank has whole gets the gradient of the rank's
    own tokens only: it must be added up over the group.
    """
    cuts = {}
    for name, module in model.named_modules():
        for kind, parameter in module.named_parameters(recurse=False):
            cut = cuts[f"{name}.{kind}"] = _within(f"{name}.{kind}", tuple(parameter.shape), group)
            module.register_parameter(kind, nn.Parameter(parameter.new_empty(cut.box.shape)))
    if model.part.first:
        _replace(model.embed_tokens, _own_words(model.embed_tokens, cuts["embed_tokens.weight"].box.offset[0], group))
        if model.config.position_embedding == "learned":
            _replace(model.embed_positions, _own_tokens(model.embed_positions, group))
    for block in model.blocks:
        for module, last in ((block.self_attn, block.self_attn.o_proj), (block.mlp, block.mlp.down_proj)):
            _replace(module, _all_tokens(module, group))
            _replace(last, _dealt_out(last, group))
    if model.part.last:
        head = "embed_tokens.weight" if model.config.tie_word_embeddings else "lm_head.weight"
        model.head_loss = _SharedHeadLoss(cuts[head], group)
    return cuts


def _within(name: str, shape: tuple[int, ...], group: dist.ProcessGroup) -> Within:
    dim, rank, ranks = cut_dim(name), dist.get_rank(group), dist.get_world_size(group)
    offset, local = [0] * len(shape), list(shape)
    if dim is not None:
        offset[dim] = rank * shape[dim] // ranks
        local[dim] = (rank + 1) * shape[dim] // ranks - offset[dim]
    return Within(shape, Box(tuple(offset), tuple(local)), shared=dim is None, speaks=dim is not None or rank == 0)


def gather_tokens(x_BtD: Tensor, group: dist.ProcessGroup) -> Tensor:
    """[B, T/tp, D] of each rank to [B, T, D] on all; gradients are added up and dealt out."""
    return _Gather.apply(x_BtD, group.group_name, group.size())


def deal_out_tokens(x_BTD: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Add up [B, T, D] over the ranks and give each its [B, T/tp, D]; gradients are gathered."""
    return _DealOut.apply(x_BTD, group.group_name, group.size())


def _gathered(x_BtD: Tensor, group: str, ranks: int) -> Tensor:
    # These operators, unlike torch.distributed's functions, can be compiled; a result that is waited for at once is a
    # plain tensor, where one in flight would lose its gradient at the entrance of a compiled block.
    whole = _OPS.wait_tensor(_OPS.all_gather_into_tensor(x_BtD.contiguous(), ranks, group))
    return torch.cat(whole.chunk(ranks), dim=1)


def _dealt(x_BTD: Tensor, group: str, ranks: int) -> Tensor:
    by_rank = torch.cat(x_BTD.chunk(ranks, dim=1))
    return _OPS.wait_tensor(_OPS.reduce_scatter_tensor(by_rank, "sum", ranks, group))


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BtD: Tensor, group: str, ranks: int) -> Tensor:
        ctx.place = group, ranks
        return _gathered(x_BtD, group, ranks)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _dealt(gradients[0], *ctx.place), None, None


class _DealOut(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, group: str, ranks: int) -> Tensor:
        ctx.place = group, ranks
        return _dealt(x_BTD, group, ranks)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return _gathered(gradients[0], *ctx.place), None, None


def _replace(module: nn.Module, forward: Callable[..., Tensor]) -> None:
    module.forward = forward


def _own_words(table: Embedding, first: int, group: dist.ProcessGroup) -> Callable[[Tensor], Tensor]:
    look_up, count = table.forward, table.weight.shape[0]

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
        y_BtD = deal_out_tokens(F.linear(x, linear.weight.to(x.dtype)), group)
        return y_BtD if linear.bias is None else y_BtD + linear.bias.to(x.dtype)

    return forward


class _SharedVocabulary(Vocabulary):
    """The words of one rank of the tp axis."""

    def __init__(self, first: int, most: int, group: dist.ProcessGroup) -> None:
        self.first, self.most, self.group = first, most, group

    def most_words(self, own: int) -> int:
        """See `Vocabulary`. All ranks cut their logits alike, though some may have a word more than others."""
        return self.most

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

    def __init__(self, head: Within, group: dist.ProcessGroup) -> None:
        super().__init__()
        most = -(-head.shape[0] // group.size())
        self.group, self.vocabulary = group, _SharedVocabulary(head.box.offset[0], most, group)

    def forward(self, x_BTD: Tensor, weight_VD: Tensor, targets_BT: Tensor) -> Tensor:
        """See `head_cross_entropy`; takes this rank's tokens of `x_BTD` and all targets."""
        x_ND = gather_tokens(x_BTD, self.group).flatten(0, 1)
        return head_cross_entropy(x_ND, weight_VD, targets_BT.flatten(), self.vocabulary)
