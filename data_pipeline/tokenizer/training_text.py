"""What a trainer sees of the texts: pieces of bounded length, and words of at most `LONGEST_LEARNT`.

A merge inside a word costs time in proportion to the word's length, so one endless word (DNA, a run of marks) would
take quadratic time: a megabyte of it does not end. Shorter words are learnt as they stand; only where 2^16 characters
hold no place to cut (see long_texts) may one be cut in two.
"""

from collections.abc import Iterable, Iterator

from tokenizers import pre_tokenizers

from data_pipeline.tokenizer.long_texts import pieces

LONGEST_LEARNT = 1000
"""Characters (of byte_bpe: bytes) of a word that a trainer sees in one; a longer word counts as several."""
_PIECE = 1 << 16
"""Characters given to a trainer at a time: it holds a hundred bytes for each on every core."""


def training_pieces(texts: Iterable[str]) -> Iterator[str]:
    """The texts in pieces of at most 2^16 characters, which have the words of the whole (see long_texts)."""
    for text in texts:
        yield from pieces(text, _PIECE)


def with_words_cut(pre_tokenizer: pre_tokenizers.PreTokenizer) -> pre_tokenizers.PreTokenizer:
    """The same words but those longer than `LONGEST_LEARNT`, which are cut: for training only."""
    return pre_tokenizers.Sequence([pre_tokenizer, pre_tokenizers.FixedLength(LONGEST_LEARNT)])
