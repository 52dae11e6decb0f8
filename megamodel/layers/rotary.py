"""Rotary positions (arXiv:2104.09864) in the half-split layout that Hugging Face files use."""

import torch
from torch import Tensor


def rotary_table(positions: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines in fp32 for integer positions: [T] gives [T, head_dim], [B, T] gives [B, 1, T, head_dim].

    Feature i and i + head_dim/2 form a pair that turns by position * theta^(-2i/head_dim). The sine's first half has
    the minus sign of the rotation, so that applying it needs no negation.
    """
    exponent = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32) / head_dim
    angle = positions.float()[..., None] * (1.0 / theta**exponent)
    if angle.dim() == 3:
        angle = angle[:, None]
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)


def rotate(x_BHTC: Tensor, table: tuple[Tensor, Tensor]) -> Tensor:
    """Turn queries or keys [B, H, T, C] by their positions."""
    cos, sin = (t.to(x_BHTC.dtype) for t in table)
    first, second = x_BHTC.chunk(2, dim=-1)
    return x_BHTC * cos + torch.cat((second, first), dim=-1) * sin
