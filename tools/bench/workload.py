"""What `bench step` measures: one rank's share of a run's global batch, on this machine's device."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from launcher.cluster.ranks import choose_device, compute_dtype
from launcher.config import RunConfig
from launcher.errors import UserError

LR = 1e-4
"""Learning rate of every measured step."""

Step = Callable[[], Tensor]
"""Makes one optimizer step on the same tokens as every other, returns its mean loss."""


@dataclass(frozen=True)
class Workload:
    """What one rank of the run does in one step."""

    config: RunConfig
    device: torch.device
    dtype: torch.dtype
    micro_batches: list[Tensor]

    @property
    def tokens(self) -> int:
        """Target tokens of the step."""
        return sum(batch.shape[0] for batch in self.micro_batches) * self.config.train.seq_len


def make_workload(config: RunConfig) -> Workload:
    """Device, compute type and random tokens [micro_batch_size, seq_len + 1] of each micro-batch."""
    train, model = config.train, config.model
    if model.position_embedding == "learned" and train.seq_len > model.max_position_embeddings:
        raise UserError(
            f"train.seq_len={train.seq_len} is more than the model's {model.max_position_embeddings} positions."
        )
    device = choose_device(config.engine, local_rank=0, local_ranks=config.engine.ranks or 1)
    share = train.global_batch_size // (config.engine.ranks or 1)
    count = max(1, share // train.micro_batch_size)
    generator = torch.Generator().manual_seed(0)
    shape = (count, train.micro_batch_size, train.seq_len + 1)
    tokens = torch.randint(model.vocab_size, shape, generator=generator).to(device)
    return Workload(config, device, compute_dtype(config.engine, device), list(tokens))
