"""Fused attention that gives the log-sum-exp of its rows (lse), and whose backward pass is told it.

`scaled_dot_product_attention` keeps the lse to itself, so its kernels are called by name. What they take:

    CPU        any floating type, fewer key than query heads, a bias
    flash      CUDA, bf16 or fp16, fewer key than query heads, no bias (arXiv:2307.08691)
    efficient  CUDA, any of fp32, bf16, fp16, as many key as query heads, a bias (arXiv:2112.05682)
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_flash_attention

BIAS_ALIGNMENT = 16
"""The efficient kernel wants every row of a bias to start at a multiple of this many elements."""

_LSE_ALIGNMENT = 32
"""The efficient kernel reads the lse of this many rows at once, and wants +inf beyond the last row."""

_VECTOR = 8
"""CUDA kernels read this many elements of a head at once."""

Gradients = tuple[Tensor, Tensor, Tensor]
"""Of queries, keys and values."""


class Rows(NamedTuple):
    """What the backward pass knows of queries [B, H, T, C]: `out` and `lse` are those over all the keys they see.

    Attributes:
        q: the queries.
        out: the weighted values, like `q`.
        grad: the gradient of `out`.
        lse: [B, H, T], finite.
    """

    q: Tensor
    out: Tensor
    grad: Tensor
    lse: Tensor

    def at(self, tokens: slice) -> "Rows":
        """Some of the queries."""
        return Rows(*(x[:, :, tokens] for x in self))


def kernel_forward(q: Tensor, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Softmax attention of queries [B, H, T, C] to keys and values [B, K, S, C], K dividing H.

    Args:
        q, k, v: queries, keys, values.
        causal: T = S, and query t sees the keys up to t.
        bias: [B, 1, T, S] in the type of `q`, added to the scores; its rows start at multiples of BIAS_ALIGNMENT.

    Returns:
        The weighted values [B, H, T, C] and the lse [B, H, T], fp32 (fp64 for fp64). Both are undefined in rows whose
        bias is -inf everywhere.
    """
    if not q.is_cuda:
        out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, attn_mask=bias)
        return out, lse
    size = q.shape[-1]
    q, k, v = _whole_vectors(q, k, v)
    run = _flash if _can_flash(q, k, v, causal, bias) else _efficient
    out, lse = run(q, k, v, causal, bias, size**-0.5)
    return out[..., :size], lse


def kernel_backward(rows: Rows, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None) -> Gradients:
    """Gradients of the queries, of `k` and of `v`, in their shapes; see `kernel_forward`.

    Where the rows see more keys than `k` has, these are the shares of the keys in `k`.
    """
    q, out, grad, lse = rows
    if not q.is_cuda:
        backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
        grad_q, grad_k, grad_v = backward(grad, q, k, v, out, lse, 0.0, causal, attn_mask=bias)
        return grad_q, grad_k, grad_v
    size = q.shape[-1]
    q, k, v, out, grad = _whole_vectors(q, k, v, out, grad)
    run = _flash_backward if _can_flash(q, k, v, causal, bias) else _efficient_backward
    grad_q, grad_k, grad_v = run(Rows(q, out, grad, lse), k, v, causal, bias, size**-0.5)
    return grad_q[..., :size], grad_k[..., :size], grad_v[..., :size]


def _can_flash(q: Tensor, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None) -> bool:
    return can_use_flash_attention(SDPAParams(q, k, v, bias, 0.0, causal, True))


def _whole_vectors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Heads widened with zeros, which change no score and no value."""
    return tuple(F.pad(x, (0, -x.shape[-1] % _VECTOR)) if x.shape[-1] % _VECTOR else x for x in tensors)


def _flash(q: Tensor, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None, scale: float) -> tuple[Tensor, Tensor]:
    assert bias is None, "the flash kernel takes no mask"
    results = torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, causal, scale=scale)
    return results[0], results[1]


def _flash_backward(rows: Rows, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None, scale: float) -> Gradients:
    assert bias is None, "the flash kernel takes no mask"
    q, out, grad, lse = rows
    lengths = (None, None, q.shape[2], k.shape[2])
    dropout = (0.0, q.new_zeros(2, dtype=torch.uint64), q.new_zeros((), dtype=torch.uint64))
    grad_q, grad_k, grad_v = torch.ops.aten._scaled_dot_product_flash_attention_backward(
        grad, q, k, v, out, lse.contiguous(), *lengths, dropout[0], causal, *dropout[1:], scale=scale
    )
    return grad_q, grad_k, grad_v


def _efficient(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    heads = q.shape[1]
    k, v, bias = _for_each_head(k, heads), _for_each_head(v, heads), _for_all_heads(bias, heads)
    results = torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, bias, True, 0.0, causal, scale=scale)
    return results[0], results[1].narrow(2, 0, q.shape[2])


def _efficient_backward(rows: Rows, k: Tensor, v: Tensor, causal: bool, bias: Tensor | None, scale: float) -> Gradients:
    q, out, grad, lse = rows
    heads, groups = q.shape[1], k.shape[1]
    k, v, bias = _for_each_head(k, heads), _for_each_head(v, heads), _for_all_heads(bias, heads)
    # The kernel takes no stride for the rows of `out`: they are to lie as the forward pass leaves them, [B, T, H, C].
    out = out.transpose(1, 2).contiguous().transpose(1, 2)
    lse = F.pad(lse, (0, -lse.shape[2] % _LSE_ALIGNMENT), value=math.inf).contiguous()
    dropout = (q.new_zeros((), dtype=torch.int64), q.new_zeros((), dtype=torch.int64), 0.0)
    wanted = [True, True, True, False]
    grad_q, grad_k, grad_v, _ = torch.ops.aten._scaled_dot_product_efficient_attention_backward(
        grad, q, k, v, bias, out, lse, *dropout, wanted, causal, scale=scale
    )
    return grad_q, _over_group(grad_k, groups), _over_group(grad_v, groups)


def _for_each_head(x: Tensor, heads: int) -> Tensor:
    return x if x.shape[1] == heads else x.repeat_interleave(heads // x.shape[1], dim=1)


def _for_all_heads(bias: Tensor | None, heads: int) -> Tensor | None:
    return bias if bias is None else bias.expand(-1, heads, -1, -1)


def _over_group(grad: Tensor, groups: int) -> Tensor:
    """The gradient of a key/value head: the sum, in fp32, over the query heads that share it."""
    return grad.unflatten(1, (groups, -1)).sum(dim=2, dtype=torch.float32)
