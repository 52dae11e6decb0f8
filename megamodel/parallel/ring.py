"""Ring attention (arXiv:2310.01889): keys and values travel round the ranks of a sequence while queries stay.

Ranks hold two pieces of the sequence each, one from either end (`zigzag`), so that under a causal mask every pair of
ranks has the same work: half of a block. A rank holds keys and values of three ranks at most: its own, those at work,
and those coming in meanwhile.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megamodel.parallel.attention_kernels import Rows
from megamodel.parallel.block_attention import Sight, attend_block, attend_block_backward

_KEYS_AND_VALUES, _GRADIENTS = 0, 1
"""What a message holds: both kinds are on the wire at once."""


def zigzag(x: Tensor, ranks: int, rank: int, dim: int) -> Tensor:
    """A rank's share of `x` along `dim`: of 2 x ranks equal pieces, those numbered rank and 2 x ranks - 1 - rank."""
    pieces = x.chunk(2 * ranks, dim)
    return torch.cat((pieces[rank], pieces[2 * ranks - 1 - rank]), dim)


def ring_attention(
    q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None = None, /, group: dist.ProcessGroup | None = None
) -> Tensor:
    """Causal attention over the sequences that the ranks of `group` share.

    Args:
        q: queries [B, H, T, C] of this rank's tokens, in the order of `zigzag`.
        k: keys [B, K, T, C], K dividing H.
        v: values, like `k`.
        documents: number of the document of every token of the whole sequences, [B, ranks x T].
        group: the ranks; None: this process has whole sequences.

    Returns:
        The weighted values [B, H, T, C]. Sums over blocks are in fp32 (fp64 for fp64).
    """
    out: Tensor = _RingAttention.apply(q, torch.stack((k, v)), documents, _Ring(group))
    return out


class _Ring:
    """This rank's place among those that share a sequence, and the wire to its neighbours."""

    def __init__(self, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.ranks = dist.get_world_size(group) if group is not None else 1
        self.rank = dist.get_rank(group) if group is not None else 0

    def source(self, step: int) -> int:
        """The rank whose keys and values are here after `step` hops."""
        return (self.rank - step) % self.ranks

    def hop(self, x: Tensor, tag: int) -> Callable[[], Tensor]:
        """Start to send `x` to the next rank; the result waits for what the rank before sends, and gives it."""
        if self.ranks == 1:
            return lambda: x
        received = torch.empty_like(x)
        to, source = (self.rank + 1) % self.ranks, (self.rank - 1) % self.ranks
        works = dist.batch_isend_irecv([
            dist.P2POp(dist.isend, x, group=self.group, tag=tag, group_peer=to),
            dist.P2POp(dist.irecv, received, group=self.group, tag=tag, group_peer=source),
        ])  # fmt: skip

        def wait(sent: Tensor = x) -> Tensor:  # what is sent has to live until it has left
            for work in works:
                work.wait()
            return received

        return wait


class _Pair:
    """The part of a block that a causal mask leaves, of this rank's queries and the keys of rank `source`."""

    def __init__(self, ring: _Ring, source: int, tokens: int, documents: Tensor | None) -> None:
        half = tokens // 2
        self.queries, self.keys = slice(0, tokens), slice(0, tokens)
        if source < ring.rank:  # its second piece lies after all of this rank's tokens
            self.keys = slice(0, half)
        elif source > ring.rank:  # this rank's first piece lies before all of its tokens
            self.queries = slice(half, tokens)
        shares = None
        if documents is not None:
            mine, theirs = (zigzag(documents, ring.ranks, rank, dim=1) for rank in (ring.rank, source))
            shares = mine[:, self.queries], theirs[:, self.keys]
        self.sight = Sight(causal=source == ring.rank, documents=shares)


class _RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, kv: Tensor, documents: Tensor | None, ring: _Ring) -> Tensor:
        out, lse = _forward(q, kv, documents, ring)
        ctx.save_for_backward(q, kv, documents, out, lse)
        ctx.ring = ring
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        q, kv, documents, out, lse = ctx.saved_tensors
        grad_q, grad_kv = _backward(Rows(q, out, grad, lse), kv, documents, ctx.ring)
        return grad_q.to(q.dtype), grad_kv.to(kv.dtype), None, None


def _forward(q: Tensor, kv: Tensor, documents: Tensor | None, ring: _Ring) -> tuple[Tensor, Tensor]:
    """The weighted values in the type of `q`, and the lse over all keys."""
    for step in range(ring.ranks):
        coming = ring.hop(kv, _KEYS_AND_VALUES) if step < ring.ranks - 1 else None
        pair = _Pair(ring, ring.source(step), q.shape[2], documents)
        k, v = kv[:, :, :, pair.keys]
        block, block_lse = attend_block(q[:, :, pair.queries], k, v, pair.sight)
        if step == 0:
            # Copies: where selective checkpointing keeps a kernel's results, they must stay as they are.
            out, lse = block.to(block_lse.dtype, copy=True), block_lse.clone()
        else:
            _merge(out[:, :, pair.queries], lse[:, :, pair.queries], block, block_lse)
        if coming is not None:
            kv = coming()
    return out.to(q.dtype), lse


def _merge(out: Tensor, lse: Tensor, block: Tensor, block_lse: Tensor) -> None:
    """Add the attention to further keys, in place. `lse` is finite: a token sees itself, in the first block."""
    total = torch.logaddexp(lse, block_lse)
    out.mul_((lse - total).exp_()[..., None]).add_(block * (block_lse - total).exp_()[..., None])
    lse.copy_(total)


def _backward(rows: Rows, kv: Tensor, documents: Tensor | None, ring: _Ring) -> tuple[Tensor, Tensor]:
    """Gradients of the queries and of this rank's keys and values, in the type of the lse.

    The gradient of a block travels behind the block, every rank adding its share, and comes home with a last hop.
    """
    grad_q = torch.zeros_like(rows.q, dtype=rows.lse.dtype)
    arriving: Callable[[], Tensor] = partial(torch.zeros_like, kv, dtype=rows.lse.dtype)
    for step in range(ring.ranks):
        coming = ring.hop(kv, _KEYS_AND_VALUES) if step < ring.ranks - 1 else None
        pair = _Pair(ring, ring.source(step), rows.q.shape[2], documents)
        k, v = kv[:, :, :, pair.keys]
        part_q, *part_kv = attend_block_backward(rows.at(pair.queries), k, v, pair.sight)
        grad_q[:, :, pair.queries] += part_q
        grad_kv = arriving()
        for total, part in zip(grad_kv[:, :, :, pair.keys], part_kv, strict=True):
            total += part
        arriving = ring.hop(grad_kv, _GRADIENTS)
        if coming is not None:
            kv = coming()
    return grad_q, arriving()
