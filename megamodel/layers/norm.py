"""Normalisation of the residual stream."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megamodel.config import ModelConfig


class RMSNorm(nn.Module):
    """x / rms(x) * weight (arXiv:1910.07467)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Normalise the last dimension."""
        weight = self.weight.to(x_BTD.dtype)
        return F.rms_norm(x_BTD, weight.shape, weight, self.eps)


class LayerNorm(nn.Module):
    """(x - mean) / std * weight + bias (arXiv:1607.06450)."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size))
        self.eps = eps

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Normalise the last dimension."""
        weight, bias = self.weight.to(x_BTD.dtype), self.bias.to(x_BTD.dtype)
        return F.layer_norm(x_BTD, weight.shape, weight, bias, self.eps)


def build_norm(config: ModelConfig) -> nn.Module:
    """The norm that the configuration names, over the model's width."""
    kind = RMSNorm if config.norm == "rmsnorm" else LayerNorm
    return kind(config.hidden_size, config.norm_eps)
