"""DeepSpeed-Ulysses (arXiv:2309.14509): ranks exchange tokens for heads, attend, and exchange them back."""

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megamodel.layers.attention import causal_attention
from megamodel.parallel.ring import ring_attention


def ulysses_attention(
    q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None = None, /, *, group: dist.ProcessGroup
) -> Tensor:
    """Causal attention over the sequences that the ranks of `group` share, a run of consecutive tokens each.

    Every rank attends over whole sequences with its part of the heads. Key/value heads that do not divide by the ranks
    are repeated as often as it takes.

    Args:
        q: queries [B, H, T, C] of this rank's tokens; H is a multiple of the ranks.
        k: keys [B, K, T, C], K dividing H.
        v: values, like `k`.
        documents: number of the document of every token of the whole sequences, [B, ranks x T].
        group: the ranks.

    Returns:
        The weighted values [B, H, T, C].
    """
    ranks, heads = dist.get_world_size(group), q.shape[1]
    assert heads % ranks == 0, (
        f"{heads} attention heads cannot be shared by {ranks} ranks: set parallel.cp_method to ring, "
        "or parallel.cp to a divisor of the heads."
    )
    repeats = ranks // math.gcd(k.shape[1], ranks)
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    q, k, v = _heads_for_tokens(q, k, v, group)
    # With documents, a mask of whole sequences would not fit: the ring of one rank forms a part of it at a time.
    out = causal_attention(q, k, v) if documents is None else ring_attention(q, k, v, documents)
    return _tokens_for_heads(out, group)


def _heads_for_tokens(q: Tensor, k: Tensor, v: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, ...]:
    """From this rank's tokens [B, H, T, C] with all heads to all [B, H / ranks, ranks x T, C], in one exchange."""
    ranks = dist.get_world_size(group)
    of_rank = [x.unflatten(1, (ranks, -1)) for x in (q, k, v)]
    sizes = [x.shape[2] for x in of_rank]
    received = _Exchange.apply(torch.cat(of_rank, dim=2).movedim(1, 0), group)  # [ranks, B, heads, T, C]
    return received.movedim(0, 2).flatten(2, 3).split(sizes, dim=1)


def _tokens_for_heads(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    """The way back: from [B, H / ranks, ranks x T, C] to [B, H, T, C]."""
    ranks = dist.get_world_size(group)
    received = _Exchange.apply(x.unflatten(2, (ranks, -1)).movedim(2, 0), group)  # [ranks, B, H / ranks, T, C]
    return received.movedim(0, 1).flatten(1, 2)


class _Exchange(torch.autograd.Function):
    """Send x[r] to rank r, and receive what rank r sends as result[r]. The gradient takes the same ways back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _exchange(x, group)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _exchange(grad, ctx.group), None


def _exchange(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    received = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    dist.all_to_all_single(received, x.contiguous(), group=group)
    return received
