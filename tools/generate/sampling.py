"""From logits to the next token: the likeliest, or a draw with temperature, top-k and top-p."""

from dataclasses import dataclass

import torch
from torch import Tensor

from launcher.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """How to choose the next token. UserError when a value makes no sense."""

    greedy: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        if self.greedy and (self.temperature != 1.0 or self.top_k is not None or self.top_p is not None):
            raise UserError("--greedy always takes the likeliest token; leave out --temperature, --top-k and --top-p.")
        if not self.temperature > 0:
            raise UserError(
                f"--temperature is {self.temperature}, it must be above 0; for the likeliest token: --greedy."
            )
        if self.top_k is not None and self.top_k < 1:
            raise UserError(f"--top-k is {self.top_k}, it must be at least 1.")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UserError(f"--top-p is {self.top_p}, it must be above 0 and at most 1.")


def choose(logits_V: Tensor, sampling: Sampling, generator: torch.Generator) -> int:
    """The next token's id; `generator` lives on the CPU, so that a seed means the same on every device."""
    if sampling.greedy:
        return int(logits_V.argmax())
    return int(torch.multinomial(probabilities(logits_V.float().cpu(), sampling), 1, generator=generator))


def probabilities(logits_V: Tensor, sampling: Sampling) -> Tensor:
    """Probabilities [V] to draw from: temperature first, then top-k, then top-p (arXiv:1904.09751).

    top-k keeps the k likeliest tokens; top-p keeps the fewest likeliest of those left whose probabilities reach p.
    """
    # Shifted, so that a tiny temperature overflows to -inf only; below 1e-30 nothing changes but 0 * inf in fp32.
    shifted_V = (logits_V - logits_V.max()) / max(sampling.temperature, 1e-30)
    logits, order = shifted_V.sort(descending=True, stable=True)
    if sampling.top_k is not None:
        logits[sampling.top_k :] = -torch.inf
    kept = logits.softmax(dim=-1)
    if sampling.top_p is not None:
        before = kept.cumsum(dim=-1) - kept
        kept = torch.where(before < sampling.top_p, kept, 0.0)
    return torch.zeros_like(kept).scatter(0, order, kept / kept.sum())
