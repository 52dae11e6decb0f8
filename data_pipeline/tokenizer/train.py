"""Train a byte-level BPE tokenizer: Sennrich et al. 2016 (arXiv:1508.07909) on bytes, split as in GPT-2."""

from collections.abc import Iterable

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from data_pipeline.errors import DataError
from data_pipeline.tokenizer.tokenizer import Tokenizer

END_OF_TEXT = "<|endoftext|>"
SMALLEST = 257


def train_tokenizer(texts: Iterable[str], vocab_size: int, model_max_length: int = 2048) -> Tokenizer:
    """Learn merges from the texts; the same texts in the same order give the same bytes.

    All 256 bytes are in the alphabet, so nothing is ever unknown. `<|endoftext|>` is the only special token: it ends a
    document, and stands for bos and unk where a reader asks for them. A small corpus may give fewer than vocab_size.
    """
    if vocab_size < SMALLEST:
        raise DataError(f"vocab_size={vocab_size} is too small: 256 bytes and {END_OF_TEXT} need {SMALLEST}.")
    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return Tokenizer(bpe.to_str(pretty=True).encode(), _config(model_max_length))


def _config(model_max_length: int) -> dict:
    """Settings for transformers; `PreTrainedTokenizerFast` is the class that versions 4 and 5 both read."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": END_OF_TEXT,
        "model_max_length": model_max_length,
        "clean_up_tokenization_spaces": False,
        "add_prefix_space": False,
    }
