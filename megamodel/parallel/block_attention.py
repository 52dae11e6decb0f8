"""Attention of some queries to some keys, with what it takes to combine it with the attention to other keys.

The softmax over all keys is not known while a block of them is computed. A block therefore also gives the logarithm of
its rows' sums of exponentials (lse), and its backward pass is told the result and the lse over all keys.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from megamodel.parallel.attention_kernels import BIAS_ALIGNMENT, Gradients, Rows, kernel_backward, kernel_forward

_MASK_ELEMENTS = {"cpu": 2**20, "cuda": 2**26}
"""Elements of a document mask that exist at once: queries are then taken some rows at a time."""


@dataclass(frozen=True)
class Sight:
    """Which of S keys each of T queries sees.

    Attributes:
        causal: T = S, and query t sees the keys up to t; else it sees all.
        documents: numbers of the documents of the queries [B, T] and of the keys [B, S]: a query sees the keys of its
            own document only. None: documents do not matter.
    """

    causal: bool
    documents: tuple[Tensor, Tensor] | None = None


def attend_block(q: Tensor, k: Tensor, v: Tensor, sight: Sight) -> tuple[Tensor, Tensor]:
    """Softmax attention of queries [B, H, T, C] to keys and values [B, K, S, C], K dividing H.

    Returns the weighted values [B, H, T, C] in the type of `q`, and the lse [B, H, T] in fp32 (fp64 for fp64). A row
    that sees no key has zeros and an lse of -inf.
    """
    if sight.documents is None:
        return kernel_forward(q, k, v, sight.causal, None)
    pieces = [_attend_rows(q, k, v, sight, rows) for rows in _ranges_of_rows(q, k)]
    pieces.reverse()
    return torch.cat([out for out, _ in pieces], dim=2), torch.cat([lse for _, lse in pieces], dim=2)


def attend_block_backward(rows: Rows, k: Tensor, v: Tensor, sight: Sight) -> Gradients:
    """The block's share of the gradients of the queries, of `k` and of `v`, in their shapes.

    In the type of the queries, or in that of the lse where rows were taken some at a time.
    """
    if sight.documents is None:
        return kernel_backward(rows, k, v, sight.causal, None)
    grad_q, grad_k, grad_v = (torch.zeros_like(x, dtype=rows.lse.dtype) for x in (rows.q, k, v))
    for some in _ranges_of_rows(rows.q, k):
        keys = _keys_of(some, k, sight)
        bias = _bias(_mask(sight.documents, some, keys, sight.causal), k.dtype)
        part_q, part_k, part_v = kernel_backward(rows.at(some), k[:, :, keys], v[:, :, keys], False, bias)
        grad_q[:, :, some] = part_q
        grad_k[:, :, keys] += part_k
        grad_v[:, :, keys] += part_v
    return grad_q, grad_k, grad_v


def _ranges_of_rows(q: Tensor, k: Tensor) -> list[slice]:
    """The last rows first: under a causal mask they see most keys, and the memory they leave serves those after them.

    The other way round no piece fits where the one before lay, and the allocator takes many times a piece.
    """
    count = max(1, _MASK_ELEMENTS[q.device.type] // (q.shape[0] * k.shape[2]))
    return [slice(start, min(start + count, q.shape[2])) for start in range(0, q.shape[2], count)][::-1]


def _keys_of(rows: slice, k: Tensor, sight: Sight) -> slice:
    return slice(0, rows.stop if sight.causal else k.shape[2])


def _attend_rows(q: Tensor, k: Tensor, v: Tensor, sight: Sight, rows: slice) -> tuple[Tensor, Tensor]:
    assert sight.documents is not None
    keys = _keys_of(rows, k, sight)
    mask = _mask(sight.documents, rows, keys, sight.causal)
    out, lse = kernel_forward(q[:, :, rows], k[:, :, keys], v[:, :, keys], False, _bias(mask, q.dtype))
    # What a kernel leaves in a row that sees nothing differs from kernel to kernel, and may be NaN.
    blind = ~mask.any(dim=-1)
    return out.masked_fill(blind[..., None], 0.0), lse.masked_fill(blind, -math.inf)


def _mask(documents: tuple[Tensor, Tensor], rows: slice, keys: slice, causal: bool) -> Tensor:
    """Whether a query sees a key, [B, 1, rows, keys]."""
    of_queries, of_keys = documents
    mask = of_queries[:, rows, None] == of_keys[:, None, keys]
    return (mask.tril_(rows.start) if causal else mask)[:, None]


def _bias(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """What is added to the scores: zero where a key is seen, else -inf."""
    keys = mask.shape[-1]
    rows = torch.full((*mask.shape[:-1], keys + -keys % BIAS_ALIGNMENT), -math.inf, dtype=dtype, device=mask.device)
    return rows[..., :keys].masked_fill_(mask, 0.0)
