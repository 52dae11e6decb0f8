"""The interface of every engine, and what all engines share."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from launcher.cluster.ranks import Ranks, compute_dtype
from launcher.config import RunConfig
from launcher.layout import layout_of
from megamodel.checkpoint import Manifest
from megamodel.layers.documents import document_numbers, restarted_positions
from megamodel.layers.loss import IGNORE_INDEX
from megamodel.parallel.context import tokens_of_rank
from megamodel.parallel.shard import Holding


class StepOutput(NamedTuple):
    """What a step leaves on the device: fp32 scalars, the same on every rank."""

    loss: Tensor
    """Mean cross-entropy in nats over the step's target tokens."""
    grad_norm: Tensor
    """L2 norm of the whole gradient, before clipping."""


class ModelInputs(NamedTuple):
    """What this rank's model takes of a micro-batch; see `GPT.forward`."""

    ids: Tensor
    targets: Tensor
    positions: Tensor
    documents: Tensor | None


class Engine(ABC):
    """A model, its optimizer, and the ranks they are spread over.

    Every engine draws the same initial weights, gives the same meaning to the loss (sum over all ranks' target tokens
    divided by their global count), and exposes its state under the same names.

    Args:
        config: the run.
        ranks: this process among the others.
        eos_id: the token that ends a document, for data.separate_documents.
    """

    optimizer_kind = "adamw"
    module: Any
    """What is called: this rank's model, as a module or as DeepSpeed's engine."""

    def __init__(self, config: RunConfig, ranks: Ranks, eos_id: int | None = None) -> None:
        self.config, self.ranks, self.eos_id = config, ranks, eos_id
        self.dtype = compute_dtype(config.engine, ranks.device)
        self.layout = layout_of(config, ranks.world_size)
        self.place = self.layout.place(ranks.rank)

    @abstractmethod
    def train_step(self, micro_batches: Sequence[Tensor], target_tokens: int, lr: float) -> StepOutput:
        """One optimizer step on this rank's micro-batches, int64 [micro_batch_size, seq_len + 1].

        Args:
            micro_batches: this rank's share of the global batch; ranks with the same data rank get the same. A token
                that is no target is stored as ~id.
            target_tokens: target tokens of the whole global batch, over all ranks.
            lr: learning rate of this step.
        """

    @torch.no_grad()
    def evaluate(self, tokens: Tensor) -> Tensor:
        """This rank's part of the summed cross-entropy over sequences [B, seq_len + 1]; ~id is no target.

        `sum_over_ranks` of it is the whole.
        """
        return self._loss_sum(tokens)

    def _loss_sum(self, tokens: Tensor) -> Tensor:
        inputs = self.inputs(tokens)
        return self.module(inputs.ids, inputs.targets, None, inputs.positions, inputs.documents)

    @abstractmethod
    def state(self) -> dict[str, Holding]:
        """What this rank holds of a checkpoint's tensors: live pieces under their canonical names."""

    @abstractmethod
    def load(self, checkpoint: Path, reset_optimizer: bool = False) -> Manifest:
        """Continue from a verified checkpoint that any engine wrote; its weights alone with `reset_optimizer`."""

    def inputs(self, tokens: Tensor) -> ModelInputs:
        """What this rank computes of sequences [B, seq_len + 1]: all their tokens, or its share of each sequence."""
        ids, targets = tokens[:, :-1], tokens[:, 1:]
        ids = torch.where(ids < 0, ~ids, ids)
        targets = torch.where(targets < 0, IGNORE_INDEX, targets)
        positions, documents = torch.arange(ids.shape[1], device=ids.device), None
        if self.config.data.separate_documents:
            assert self.eos_id is not None, "data.separate_documents needs the tokenizer's eos id"
            documents = document_numbers(ids, self.eos_id)
            positions = restarted_positions(documents)
        if self.layout.cp > 1:
            mine = tokens_of_rank(ids.shape[1], self.layout.cp, self.place["cp"], self.config.parallel.cp_method)
            mine = mine.to(ids.device)
            ids, targets, positions = ids[:, mine], targets[:, mine], positions[..., mine]
        return ModelInputs(ids, targets, positions, documents)

    def sum_over_ranks(self, value: Tensor) -> Tensor:
        """Add a scalar up, in place, over the ranks that saw different tokens; ranks of one tp group saw the same."""
        if self.ranks.world_size > 1:
            if self.place["tp"] > 0:
                value.zero_()
            dist.all_reduce(value)
        return value
