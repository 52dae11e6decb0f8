"""Initial weights as a pure function of (seed, parameter name): no rank, layout or engine changes a bit of them."""

import hashlib
import math

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from megamodel.config import ModelConfig
from megamodel.parallel.shard import local_box


def draw(name: str, shape: torch.Size, config: ModelConfig, seed: int) -> Tensor:
    """The whole initial value of one parameter, fp32 on the CPU.

    Norm weights are ones, biases zeros, everything else is normal with `initializer_range`; the two projections that
    write into the residual stream get it divided by sqrt(2 * layers), as GPT-2 does.
    """
    if name.endswith("bias"):
        return torch.zeros(shape)
    if "norm" in name:
        return torch.ones(shape)
    std = config.initializer_range
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        std /= math.sqrt(2 * config.num_hidden_layers)
    key = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(key, "little") >> 1)
    return torch.empty(shape).normal_(0.0, std, generator=generator)


@torch.no_grad()
def initialize(model: nn.Module, config: ModelConfig, seed: int) -> None:
    """Fill every parameter of a materialised model, whole or sharded; one full parameter at a time is in memory."""
    for name, parameter in model.named_parameters():
        value = draw(name, parameter.shape, config, seed)
        if isinstance(parameter, DTensor):
            box = local_box(parameter)
            parameter.to_local().copy_(value[box.slices])
        else:
            parameter.copy_(value)
