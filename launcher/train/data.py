"""The run's data: the training batches and the validation sequences, as this rank needs them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from data_pipeline.mixture import Loader, Mixture
from data_pipeline.mixture.loader import Rearrange
from data_pipeline.tokenizer import Tokenizer
from launcher.config import RunConfig
from launcher.errors import UserError
from launcher.mixtures import fill_in_the_middle, fim_sources, validation_mixture
from launcher.train.left_out import skipped_steps

PADDING = -1
"""Token id of the padding rows in a validation batch."""


def train_loader(config: RunConfig, mixture: Mixture, tokenizer: Tokenizer, data_rank: int, data_ranks: int) -> Loader:
    """Batches of one of the groups that share the data; UserError when the global batch does not divide among them."""
    batch, micro = config.train.global_batch_size, config.train.micro_batch_size
    unit = data_ranks * micro
    if batch % unit:
        near = sorted({max(unit, batch // unit * unit), (batch // unit + 1) * unit})
        raise UserError(
            f"train.global_batch_size={batch} does not divide into {data_ranks} data parallel ranks x "
            f"train.micro_batch_size={micro}; the nearest that do: {', '.join(map(str, near))}"
        )
    rearrange = _rearranging(config, mixture, tokenizer)
    return Loader(mixture, batch, data_rank, data_ranks, skipped_steps(config), rearrange)


def _rearranging(config: RunConfig, mixture: Mixture, tokenizer: Tokenizer) -> Rearrange | None:
    """Fill-in-the-middle for the rows of the sources that have it."""
    fim, sources = fill_in_the_middle(config, tokenizer), fim_sources(config, mixture)
    if fim is None or len(sources) == len(mixture.sources):
        return fim

    def rearrange(rows: np.ndarray, samples: np.ndarray) -> None:
        mine = np.isin(mixture.segments(samples)[0], sources)
        chosen = rows[mine]
        fim(chosen, samples[mine])
        rows[mine] = chosen

    return rearrange


def to_micro_batches(tokens: np.ndarray, micro_batch_size: int, device: torch.device) -> list[Tensor]:
    """A rank's sequences [n, seq_len + 1] on its device, cut into micro-batches."""
    whole = torch.from_numpy(tokens)
    if device.type == "cuda":
        whole = whole.pin_memory().to(device, non_blocking=True)
    return list(whole.split(micro_batch_size))


@dataclass(frozen=True)
class ValidationSet:
    """This rank's share of the validation sequences, and what its targets are as text."""

    batches: list[Tensor]
    """int64 [micro_batch_size, seq_len + 1] on the CPU; as many on every rank, filled up with rows of PADDING."""
    target_tokens: int
    """Target tokens over all ranks."""
    text_bytes: int
    """Bytes of text that those targets stand for, over all ranks."""

    def bits_per_byte(self, loss: float) -> float:
        """Mean nats a target token as bits a byte of text: comparable between tokenizers."""
        return loss * self.target_tokens / math.log(2) / max(1, self.text_bytes)


def validation_set(config: RunConfig, tokenizer: Tokenizer, data_rank: int, data_ranks: int) -> ValidationSet | None:
    """The first `train.validation_sequences` samples of the validation mixture: the same at every time and layout."""
    if not config.data.validation:
        return None
    mixture = validation_mixture(config, tokenizer.digest)
    count = min(config.train.validation_sequences, sum(mixture.num_windows))
    tokens = mixture.read(mixture.samples(0, count))
    targets = tokens[:, 1:]
    text_bytes = int(tokenizer.token_byte_lengths()[targets].sum())
    micro = config.train.micro_batch_size
    rounds = -(-count // (micro * data_ranks))
    padded = np.full((rounds * micro * data_ranks, tokens.shape[1]), PADDING, np.int64)
    padded[:count] = tokens
    mine = np.split(padded, data_ranks)[data_rank]
    return ValidationSet(list(torch.from_numpy(mine).split(micro)), targets.size, text_bytes)
