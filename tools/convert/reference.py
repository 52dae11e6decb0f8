"""What a right export must reproduce: prompts with our logits, texts with our ids. The file that `check_hf` reads."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from data_pipeline.tokenizer import Tokenizer
from megamodel.gpt import GPT

PROMPT_LENGTHS = (1, 16, 128, 512)
"""Tokens of each prompt. A mistake in rotary positions grows with the distance: the short ones would hide it."""
_COMPARED_POSITIONS = 64

TEXTS = (
    "It was the best of times, it was the worst of times.",
    "  Two leading spaces,\ttabs,\r\nline ends,\n\n\nand 1,234,567.89 numbers  ",
    "床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。",
    "Naïve façade, Ærøskøbing, Ελλάδα, עברית, हिन्दी, 👩‍👩‍👧‍👦🎉",
    "def f(x):\n    return {'a': [x**2, \"b\"]}  # comment",
    "",
)
"""What both tokenizers must spell alike: spaces, line ends, numbers, many scripts, joined emoji, code."""


def make_reference(model: GPT, tokenizer: Tokenizer) -> dict[str, Tensor]:
    """Prompts of random ids with our logits at up to 64 positions, over the tokenizer's vocabulary; the texts' ids."""
    longest, tokens = model.config.max_position_embeddings, tokenizer.vocab_size
    generator = torch.Generator().manual_seed(0)
    tensors = {"eos": torch.tensor([tokenizer.eos_id])}
    for length in sorted({min(n, longest) for n in PROMPT_LENGTHS}):
        ids = torch.randint(tokens, (length,), generator=generator)
        positions = torch.linspace(0, length - 1, min(length, _COMPARED_POSITIONS)).round().long()
        with torch.no_grad():
            logits = model(ids[None])[0, positions, :tokens]
        prompt = f"prompt/{length:06d}"  # the file keeps names sorted
        tensors |= {f"{prompt}/ids": ids, f"{prompt}/at": positions, f"{prompt}/logits": logits}
    for number, ids_of_text in enumerate(tokenizer.encode_batch(list(TEXTS))):
        tensors[f"text/{number}"] = torch.from_numpy(ids_of_text).long()
    return tensors


def write_reference(path: Path, tensors: dict[str, Tensor], label: str = "", texts: Sequence[str] = TEXTS) -> None:
    """Save for the checking process, texts and all; what it finds there is named after the label."""
    save_file(tensors, path, metadata={"texts": json.dumps(texts), "label": label})
