"""How a layer takes its weights: this rank's part of them, in the type of the activations."""

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Partial, Replicate


def in_use(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight as a layer computes with it.

    Of a distributed weight it is this rank's part. Where all ranks hold the same part, each computes with it on other
    tokens or features, so its gradient is the sum of theirs.
    """
    if isinstance(weight, DTensor):
        placements = [Partial() if isinstance(p, Replicate) else p for p in weight.placements]
        weight = weight.to_local(grad_placements=placements)
    return weight.to(dtype)
