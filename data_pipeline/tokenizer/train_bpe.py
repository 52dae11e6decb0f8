"""Train a byte-level BPE tokenizer: Sennrich et al. 2016 (arXiv:1508.07909) on bytes, split as in GPT-2."""

from collections.abc import Iterable, Sequence

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from data_pipeline.tokenizer.read import new_config
from data_pipeline.tokenizer.tokenizer import Tokenizer
from data_pipeline.tokenizer.training_text import with_words_cut

END_OF_TEXT = "<|endoftext|>"


def train_byte_bpe(
    texts: Iterable[str], vocab_size: int, model_max_length: int, special_tokens: Sequence[str] = ()
) -> Tokenizer:
    """Learn merges from the texts.

    All 256 bytes are in the alphabet, so nothing is ever unknown. `<|endoftext|>` ends a document, and stands for bos
    and unk where a reader asks for them; `special_tokens` come behind it.
    """
    bpe = tokenizers.Tokenizer(models.BPE())
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    bpe.pre_tokenizer = with_words_cut(words)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, *special_tokens],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    bpe.pre_tokenizer = words
    config = new_config(END_OF_TEXT, model_max_length) | {"add_prefix_space": False}
    return Tokenizer(bpe.to_str(pretty=True).encode(), config)
