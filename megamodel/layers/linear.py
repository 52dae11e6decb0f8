"""A linear map whose weights stay in their own precision and are cast where they are used."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Linear(nn.Module):
    """y = x Wᵀ + b with W [out, in].

    The weight is cast to the type of `x`: fp32 masters compute in bf16 whenever the activations are bf16, and gradients
    arrive in fp32. Under FSDP2's mixed precision the gathered weight is bf16 already and the cast costs nothing.
    """

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., in] to [..., out]."""
        bias = self.bias.to(x.dtype) if self.bias is not None else None
        return F.linear(x, self.weight.to(x.dtype), bias)
