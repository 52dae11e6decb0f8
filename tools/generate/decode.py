"""One token after another: the loop with its cache, and text that appears as soon as its bytes are whole."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from data_pipeline.tokenizer import Tokenizer
from launcher.errors import UserError
from megamodel.gpt import GPT
from megamodel.layers.attention import KVCache
from tools.generate.sampling import Sampling, choose

_BROKEN = "\ufffd"
_LONGEST_CHARACTER = 4


@torch.no_grad()
def continue_ids(
    model: GPT, prompt: Sequence[int], max_new_tokens: int, sampling: Sampling, seed: int, eos_id: int
) -> Iterator[int]:
    """Yield up to `max_new_tokens` ids that follow the prompt; an end-of-document token is the last one."""
    device = model.embed_tokens.weight.device
    generator = torch.Generator().manual_seed(seed)
    cache = _cache(model, len(prompt) + max_new_tokens, device)
    ids: Tensor = torch.tensor([list(prompt)], device=device)
    for _ in range(max_new_tokens):
        token = choose(model(ids, cache=cache)[0, -1], sampling, generator)
        yield token
        if token == eos_id:
            return
        ids = torch.tensor([[token]], device=device)


def _cache(model: GPT, tokens: int, device: torch.device) -> KVCache:
    try:
        return KVCache(model.config, 1, tokens, device, model.compute_dtype)
    except (RuntimeError, TypeError) as error:  # no memory, or a number that torch cannot even ask for
        raise UserError(
            f"there is no memory for the keys and values of {tokens:,} tokens on {device}; lower --max-new-tokens."
        ) from error


class TextStream:
    """Turns ids into text piece by piece; a character whose bytes lie in several tokens comes when it is whole."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []
        self._pending: list[int] = []

    def push(self, token: int) -> str:
        """The text that is certain now."""
        self._pending.append(token)
        text = self._text()
        if text.endswith(_BROKEN) and len(self._pending) < _LONGEST_CHARACTER:
            return ""
        return self._release(text)

    def flush(self) -> str:
        """What is left at the end, whole or not."""
        return self._release(self._text()) if self._pending else ""

    def _text(self) -> str:
        """Text of the pending ids; some tokenizers spell a first word differently, so the ids before stand in front."""
        before = self._tokenizer.decode(self._context)
        return self._tokenizer.decode(self._context + self._pending)[len(before) :]

    def _release(self, text: str) -> str:
        self._context, self._pending = self._pending, []
        return text
