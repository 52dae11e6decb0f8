"""Initial weights as a pure function of (seed, parameter name): no rank, layout or engine changes a bit of them."""

import hashlib
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from megamodel.config import ModelConfig
from megamodel.parallel.shard import Box, Holding

_BLOCK_ELEMENTS = 2**20
"""About so many elements are drawn from one seed, as whole rows: a rank draws no more than it holds, rounded up."""


def draw(name: str, shape: tuple[int, ...], config: ModelConfig, seed: int, box: Box | None = None) -> Tensor:
    """A box of the initial value of one parameter, by default all of it; fp32 on the CPU.

    Norm weights are ones, biases zeros, everything else is normal with `initializer_range`; the two projections that
    write into the residual stream get it divided by sqrt(2 * layers), as GPT-2 does. Blocks of rows have seeds of their
    own, so that what a rank does not hold is never drawn, except for the rest of its rows.
    """
    box = box or Box((0,) * len(shape), tuple(shape))
    if name.endswith("bias"):
        return torch.zeros(box.shape)
    if "norm" in name:
        return torch.ones(box.shape)
    std = config.initializer_range
    if name.endswith(("o_proj.weight", "down_proj.weight")):
        std /= math.sqrt(2 * config.num_hidden_layers)
    value = torch.empty(box.shape)
    each = max(1, _BLOCK_ELEMENTS // math.prod(shape[1:]))
    first, end = box.offset[0], box.offset[0] + box.shape[0]
    for block in range(first // each, -(-end // each)):
        rows = Box((block * each, *(0,) * (len(shape) - 1)), (min(each, shape[0] - block * each), *shape[1:]))
        shared = rows.overlap(box)
        if shared is not None:
            drawn = torch.empty(rows.shape).normal_(0.0, std, generator=_generator(f"{seed}/{name}/{block}"))
            value[shared.relative_to(box)] = drawn[shared.relative_to(rows)]
    return value


def _generator(key: str) -> torch.Generator:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


@torch.no_grad()
def initialize(parameters: Mapping[str, Holding], config: ModelConfig, seed: int) -> None:
    """Fill what this rank holds of the parameters, given by name; one parameter's part at a time is drawn beside it."""
    for name, holding in parameters.items():
        for box, piece in holding.pieces:
            piece.copy_(draw(name, holding.shape, config, seed, box))
