"""Train a sentencepiece model: unigram (Kudo 2018, arXiv:1804.10959) or BPE (Sennrich et al. 2016, arXiv:1508.07909).

Nothing of a text is lost: no normalisation, no space added or dropped, and what the vocabulary cannot spell becomes
bytes.
"""

import io
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Literal

from data_pipeline.errors import DataError
from data_pipeline.tokenizer.alphabet import frequent_characters
from data_pipeline.tokenizer.read import SENTENCEPIECE, new_config, sentencepiece_files
from data_pipeline.tokenizer.settings import smallest_vocab_size
from data_pipeline.tokenizer.tokenizer import Tokenizer

EOS = "</s>"
_LINE = 4096
"""Characters of a line of training text; sentencepiece learns from lines."""
_ASCII = "".join(map(chr, range(0x20, 0x7F)))
"""Always in the vocabulary: what a corpus without, say, `<` would leave to bytes. The bytes of a space would not come
back as one: sentencepiece spells it U+2581."""


def train_sentencepiece(
    texts: Iterable[str],
    vocab_size: int,
    model_max_length: int,
    algorithm: Literal["unigram", "bpe"],
    special_tokens: Sequence[str] = (),
) -> Tokenizer:
    """Learn pieces from the texts, which are held in memory, on one core. Characters take half of the room at most.

    `<unk>` (never used), `<s>`, `</s>`, the special tokens and 256 bytes come first.
    """
    import sentencepiece

    held = list(texts)
    room = vocab_size - smallest_vocab_size("sentencepiece_bpe", len(special_tokens))  # unigram's too
    _, rare = frequent_characters(held, room // 2)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=chain(_ASCII, _lines(held, {*rare} - {*_ASCII})),
            model_writer=model,
            model_type=algorithm,
            vocab_size=vocab_size,
            control_symbols=list(special_tokens),
            hard_vocab_limit=False,
            character_coverage=1.0,
            byte_fallback=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            max_sentence_length=8 * _LINE,
            shuffle_input_sentence=False,
            num_threads=1,
            minloglevel=2,
        )
    except (RuntimeError, OSError) as error:
        raise DataError(f"sentencepiece cannot learn {vocab_size} pieces from these texts: {error}") from error
    files = sentencepiece_files(model.getvalue())
    return Tokenizer(files.json, new_config(EOS, model_max_length) | SENTENCEPIECE, files.model)


def _lines(texts: Iterable[str], rare: Iterable[str]) -> Iterator[str]:
    """Lines without their ends, long ones in parts; they also end at rare characters, which become bytes."""
    ends = dict.fromkeys(map(ord, ("\r", "\0", *rare)), "\n")
    for text in texts:
        for line in text.translate(ends).split("\n"):
            for start in range(0, len(line), _LINE):
                yield line[start : start + _LINE]
