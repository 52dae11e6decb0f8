"""The position-wise network of a block."""

import torch.nn.functional as F
from torch import Tensor, nn

from megamodel.config import ModelConfig
from megamodel.layers.linear import Linear


class SwigluMLP(nn.Module):
    """down(silu(gate(x)) * up(x)) (arXiv:2002.05202)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        return self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))


class GeluMLP(nn.Module):
    """down(gelu(up(x))) with the tanh form of GELU, as GPT-2 has it."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.up_proj = Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Map [B, T, D] to [B, T, D]."""
        return self.down_proj(F.gelu(self.up_proj(x_BTD), approximate="tanh"))


MLP = SwigluMLP | GeluMLP


def build_mlp(config: ModelConfig) -> MLP:
    """The MLP that the configuration names."""
    return SwigluMLP(config) if config.activation == "swiglu" else GeluMLP(config)
