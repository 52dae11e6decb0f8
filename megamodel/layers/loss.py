"""Cross-entropy with the output head inside, a chunk of tokens at a time: the whole logits [N, V] never exist."""

from typing import Any

import torch
from torch import Tensor, nn

IGNORE_INDEX = -100
"""Target of a token that is not counted in the loss."""

_CHUNK_ELEMENTS = {"cpu": (2**22, 2**22), "cuda": (2**26, 2**28)}
"""Least and most logits computed at once, whatever the vocabulary. In fp32: 16 MiB on a CPU, where more leave the
caches and fewer read the head too often; 256 MiB to 1 GiB on a GPU."""

_CHUNK_PER_HIDDEN = 8
"""Logits computed at once for each element of the hidden states: with these, a chunk and its gradient take about the
memory of what one block keeps of the same tokens for its backward pass."""


class Vocabulary:
    """The words whose logits this process forms: all. A layout that shares the vocabulary says otherwise."""

    first = 0
    """Number of the first word."""

    def most_words(self, own: int) -> int:
        """The words of whoever has the most, where this process has `own`."""
        return own

    def maximum(self, values: Tensor) -> Tensor:
        """The largest value over all who share the vocabulary."""
        return values

    def total(self, values: Tensor) -> Tensor:
        """The sum over all who share the vocabulary."""
        return values


WHOLE = Vocabulary()


class HeadLoss(nn.Module):
    """The loss as a module, so that a layout can put another in its place."""

    def forward(self, x_BTD: Tensor, weight_VD: Tensor, targets_BT: Tensor) -> Tensor:
        """See `head_cross_entropy`."""
        return head_cross_entropy(x_BTD.flatten(0, 1), weight_VD, targets_BT.flatten())


def head_cross_entropy(x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, vocabulary: Vocabulary = WHOLE) -> Tensor:
    """Sum over tokens of -log softmax(x Wᵀ)[target], an fp32 scalar; tokens with target IGNORE_INDEX add nothing.

    Gradients of the hidden states and of the head are formed in the forward pass, chunk by chunk, while the chunk's
    logits are at hand: the same three matrix products as with whole logits, and nothing computed twice. Products run in
    the type of `x_ND`; the softmax and the sum in fp32; the head's gradient is collected in fp32. Where the vocabulary
    is shared, `weight_VD` has this rank's words, and the gradient of `x_ND` is what they add to it.
    """
    needs_grad = torch.is_grad_enabled() and (x_ND.requires_grad or weight_VD.requires_grad)
    return _HeadCrossEntropy.apply(x_ND, weight_VD, targets_N, needs_grad, vocabulary)


def rows_at_once(x_ND: Tensor, words: int) -> int:
    """Tokens whose logits exist at once: a function of the shapes alone, so that every run and every rank rounds alike.

    Each chunk reads the head and adds to its gradient, so that a wide model wants more rows than a narrow one.
    """
    least, most = _CHUNK_ELEMENTS[x_ND.device.type]
    return max(1, min(max(_CHUNK_PER_HIDDEN * x_ND.numel(), least), most) // words)


class _HeadCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_ND: Tensor, weight_VD: Tensor, targets_N: Tensor, needs_grad: bool, vocabulary: Vocabulary
    ) -> Tensor:
        weight = weight_VD.to(x_ND.dtype)
        total = x_ND.new_zeros((), dtype=torch.float32)
        grad_x = torch.empty_like(x_ND) if needs_grad else None
        grad_weight = torch.zeros_like(weight_VD, dtype=torch.float32) if needs_grad else None
        step = rows_at_once(x_ND, vocabulary.most_words(weight.shape[0]))
        for start in range(0, x_ND.shape[0], step):
            rows = slice(start, start + step)
            loss, grad_logits = _chunk(x_ND[rows], weight, targets_N[rows], needs_grad, vocabulary)
            total += loss
            if grad_x is not None and grad_weight is not None and grad_logits is not None:
                torch.mm(grad_logits, weight, out=grad_x[rows])
                _accumulate(grad_weight, grad_logits, x_ND[rows])
        ctx.save_for_backward(grad_x, grad_weight)
        ctx.weight_dtype = weight_VD.dtype
        return total

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Any) -> Any:
        grad_x, grad_weight = ctx.saved_tensors
        scale = grad_outputs[0]
        return grad_x * scale.to(grad_x.dtype), (grad_weight * scale).to(ctx.weight_dtype), None, None, None


def _chunk(
    x: Tensor, weight: Tensor, targets: Tensor, needs_grad: bool, vocabulary: Vocabulary
) -> tuple[Tensor, Tensor | None]:
    """Loss of one chunk, and the gradient of its logits in the type of `x` (softmax minus one at the target)."""
    logits = torch.mm(x, weight.t()).float()
    counted = (targets != IGNORE_INDEX)[:, None]
    index = targets[:, None] - vocabulary.first
    here = counted & (index >= 0) & (index < weight.shape[0])
    index = torch.where(here, index, 0)
    logits.sub_(vocabulary.maximum(logits.amax(dim=-1, keepdim=True)))
    picked = torch.where(here, logits.gather(1, index), 0.0)
    sums = torch.cat((logits.exp_().sum(dim=-1, keepdim=True), picked), dim=1)
    exp_sum, picked = vocabulary.total(sums).split(1, dim=1)
    loss = torch.where(counted, exp_sum.log() - picked, 0.0).sum()
    if not needs_grad:
        return loss, None
    # Each pass over the logits costs as much as a good part of a product: they become their gradient in place.
    grad = logits.mul_(counted / exp_sum)
    return loss, grad.scatter_add_(1, index, -here.to(grad.dtype)).to(x.dtype)


def _accumulate(grad_weight: Tensor, grad_logits: Tensor, x: Tensor) -> None:
    """grad_weight += grad_logitsᵀ x, collected in fp32 whatever the type of the factors."""
    if x.dtype == torch.float32:
        grad_weight.addmm_(grad_logits.t(), x)
    else:
        grad_weight += torch.mm(grad_logits.t(), x)
