"""Continue a text with a run's model or an exported one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from data_pipeline.tokenizer import Tokenizer
from launcher.errors import UserError
from megamodel.config import ModelConfig
from tools.convert.source import open_source
from tools.generate.decode import TextStream, continue_ids
from tools.generate.sampling import Sampling


@dataclass(frozen=True)
class Generated:
    """A continuation: the new ids (an end-of-document token is the last one) and their text, without that token."""

    source: str
    prompt: str
    prompt_ids: list[int]
    ids: list[int]
    text: str
    stopped_by: str
    """`eos` or `length`."""
    seed: int
    notes: list[str]


def generate(
    path: Path,
    prompt: str,
    max_new_tokens: int,
    sampling: Sampling,
    seed: int,
    step: int | None = None,
    on_text: Callable[[str], None] = lambda text: None,
) -> Generated:
    """Continue `prompt` in fp32 on the GPU, or on the CPU where there is none; `on_text` gets each piece of text.

    An empty prompt stands for the beginning of a document. The seed gives the same continuation each time.
    """
    if max_new_tokens < 1:
        raise UserError(f"--max-new-tokens is {max_new_tokens}, it must be at least 1.")
    source = open_source(path, step)
    tokenizer = Tokenizer.load(source.tokenizer)
    prompt_ids = tokenizer.encode_batch([prompt])[0].tolist() or [tokenizer.eos_id]
    notes = source.notes + _check_length(source.config, len(prompt_ids), max_new_tokens)
    model = source.build("cuda" if torch.cuda.is_available() else "cpu")
    stream, ids = TextStream(tokenizer), []
    for token in continue_ids(model, prompt_ids, max_new_tokens, sampling, seed, tokenizer.eos_id):
        ids.append(token)
        if token != tokenizer.eos_id:
            on_text(stream.push(token))
    on_text(stream.flush())
    ended = ids[-1] == tokenizer.eos_id
    text = tokenizer.decode(ids[:-1] if ended else ids)
    return Generated(source.name, prompt, prompt_ids, ids, text, "eos" if ended else "length", seed, notes)


def _check_length(config: ModelConfig, prompt: int, new: int) -> list[str]:
    """Learned positions end somewhere; rotary ones go on, but nobody trained the model there."""
    longest = config.max_position_embeddings
    if prompt + new <= longest:
        return []
    lengths = f"{prompt} tokens of prompt and {new} new ones are more than the model's {longest} positions"
    if config.position_embedding == "learned":
        room = f"; at most {longest - prompt} new ones fit" if prompt < longest else ""
        raise UserError(f"{lengths}{room}.")
    return [f"{lengths}: it was not made for what lies beyond them."]
