"""Train a sentencepiece model: unigram (Kudo 2018, arXiv:1804.10959) or BPE (Sennrich et al. 2016, arXiv:1508.07909).

Nothing of a text is lost: no normalisation, no space added or dropped, and what the vocabulary cannot spell becomes
bytes.
"""

import io
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from data_pipeline.errors import DataError
from data_pipeline.tokenizer.alphabet import COVERAGE, frequent_characters
from data_pipeline.tokenizer.read import SENTENCEPIECE, new_config, sentencepiece_files
from data_pipeline.tokenizer.tokenizer import Tokenizer

EOS = "</s>"
_LINE = 4096
"""Characters of a line of training text; sentencepiece learns from lines."""
_FIXED = 3 + 256
"""`<unk>`, `<s>`, `</s>` and the bytes."""


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

    lines = list(_lines(texts))
    room = vocab_size - len(special_tokens) - _FIXED
    _, _, coverage = frequent_characters(lines, max(1, room // 2))
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_writer=model,
            model_type=algorithm,
            vocab_size=vocab_size,
            control_symbols=list(special_tokens),
            hard_vocab_limit=False,
            character_coverage=min(COVERAGE, coverage),
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


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Lines without their ends, long ones in parts; sentencepiece reserves NUL and U+2581."""
    for text in texts:
        for line in re.split(r"[\r\n\0]+", text):
            for start in range(0, len(line), _LINE):
                yield line[start : start + _LINE]
