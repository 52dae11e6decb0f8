"""The interface of every engine, and all that engines share."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from launcher.cluster.ranks import Ranks, compute_dtype
from launcher.config import RunConfig
from megamodel.checkpoint import Manifest, load_into
from megamodel.gpt import GPT
from megamodel.init import initialize
from megamodel.layers.loss import IGNORE_INDEX
from megamodel.optim.adamw import build_adamw, named_state, set_lr, set_step
from megamodel.parallel.apply import prepare_blocks
from megamodel.parallel.shard import local_part


class StepOutput(NamedTuple):
    """What a step leaves on the device: fp32 scalars, the same on every rank."""

    loss: Tensor
    """Mean cross-entropy in nats over the step's target tokens."""
    grad_norm: Tensor
    """L2 norm of the whole gradient, before clipping."""


class Engine(ABC):
    """A model, its optimizer, and the ranks they are spread over.

    Every engine draws the same initial weights, gives the same meaning to the loss (sum over all ranks' target tokens
    divided by their global count), and exposes its state under the same names.
    """

    optimizer_kind = "adamw"

    def __init__(self, config: RunConfig, ranks: Ranks) -> None:
        self.config, self.ranks = config, ranks
        with torch.device("meta"):
            self.model = GPT(config.model, compute_dtype(config.engine, ranks.device))
        prepare_blocks(self.model, config.engine.activation_checkpointing, config.engine.compile)
        self.module = self._distribute()
        settings = config.optimizer
        self.optimizer = build_adamw(self.model, settings.betas, settings.eps, settings.weight_decay)

    @abstractmethod
    def _distribute(self) -> nn.Module:
        """Materialise `self.model`, initialise it, spread it over the ranks; return the module to call."""

    def _materialise(self) -> None:
        self.model.to_empty(device=self.ranks.device)
        initialize(self.model, self.config.model, self.config.seed)

    def _reduced(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Context of one backward pass: gradients meet those of the other ranks in the last one only."""
        return contextlib.nullcontext()

    loss_scale = 1.0
    """Factor on the loss that cancels whatever division the engine's gradient reduction does by itself."""

    def train_step(self, micro_batches: Sequence[Tensor], target_tokens: int, lr: float) -> StepOutput:
        """One optimizer step on this rank's micro-batches, int64 [micro_batch_size, seq_len + 1].

        Args:
            micro_batches: this rank's share of the global batch.
            target_tokens: target tokens of the whole global batch, over all ranks.
            lr: learning rate of this step.
        """
        loss = torch.zeros((), dtype=torch.float32, device=self.ranks.device)
        for index, tokens in enumerate(micro_batches):
            with self._reduced(last=index == len(micro_batches) - 1):
                micro_loss = self._loss_sum(tokens) / target_tokens
                (micro_loss * self.loss_scale).backward()
            loss += micro_loss.detach()
        grad_norm = self._clip()
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return StepOutput(self.sum_over_ranks(loss), grad_norm)

    @torch.no_grad()
    def evaluate(self, tokens: Tensor) -> Tensor:
        """Sum of the cross-entropy over this rank's sequences [B, seq_len + 1]; rows of -1 are padding."""
        return self._loss_sum(tokens)

    def _loss_sum(self, tokens: Tensor) -> Tensor:
        inputs, targets = tokens[:, :-1], tokens[:, 1:]
        return self.module(inputs.clamp(min=0), torch.where(targets < 0, IGNORE_INDEX, targets))

    def _clip(self) -> Tensor:
        """Scale the gradient down to max_grad_norm; return its norm before.

        The squares are summed in fp64: in fp32 the order of summation, which the layout decides, shows at 1e-6 of the
        norm, and clipping hands that on to every weight.
        """
        gradients = [local_part(p.grad) for p in self.model.parameters() if p.grad is not None]
        norms = torch.stack(torch._foreach_norm(gradients, 2.0, dtype=torch.float64))
        norm = self._sum_over_shards(norms.square().sum()).sqrt().float()
        if self.config.optimizer.max_grad_norm is not None:
            torch._foreach_mul_(gradients, (self.config.optimizer.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def _sum_over_shards(self, value: Tensor) -> Tensor:
        """Add up over the ranks that hold different parts of the same gradient."""
        return value

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Add a scalar up over all ranks, in place."""
        if self.ranks.world_size > 1:
            dist.all_reduce(value)
        return value

    def state(self) -> dict[str, Tensor]:
        """The live tensors of a checkpoint under their canonical names, whole or sharded."""
        return named_state(self.model, self.optimizer)

    def load(self, checkpoint: Path) -> Manifest:
        """Continue from a verified checkpoint that any engine wrote."""
        manifest = load_into(checkpoint, self.state())
        set_step(self.optimizer, manifest.step)
        return manifest
