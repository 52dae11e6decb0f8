"""Train a WordPiece tokenizer as BERT has it (Devlin et al. 2018, arXiv:1810.04805).

The trainer of `tokenizers` numbers the pieces `##x` in the order of a hash table, another one in each process, and
breaks ties by those numbers. So it is given the alphabet in a fixed order, as if those were special tokens.
"""

import json
from collections.abc import Iterable

import tokenizers
from tokenizers import trainers

from data_pipeline.tokenizer.alphabet import frequent_characters
from data_pipeline.tokenizer.read import wordpiece_config
from data_pipeline.tokenizer.tokenizer import Tokenizer
from data_pipeline.tokenizer.training_text import with_words_cut
from data_pipeline.tokenizer.vocab_txt import SPECIAL, wordpiece_json


def train_wordpiece(texts: Iterable[str], vocab_size: int, model_max_length: int, lowercase: bool) -> Tokenizer:
    """Learn pieces of words from the texts, which are held in memory.

    [SEP] ends a document; [UNK] stands for a word that no pieces spell. The alphabet takes a third of the vocabulary at
    most, twice where its characters also continue words.
    """
    held = list(texts)
    kept, rare = frequent_characters(held, (vocab_size - len(SPECIAL)) // 3)
    wordpiece = _untrained(lowercase)
    first, later = _forms(wordpiece, kept)
    fixed = [*SPECIAL, *first, *(f"##{character}" for character in later)]
    trainer = trainers.WordPieceTrainer(vocab_size=vocab_size, special_tokens=fixed, show_progress=False)
    assert wordpiece.pre_tokenizer is not None
    wordpiece.pre_tokenizer = with_words_cut(wordpiece.pre_tokenizer)
    spaces = dict.fromkeys(map(ord, rare), " ")
    wordpiece.train_from_iterator((text.translate(spaces) for text in held), trainer)
    content = wordpiece_json(json.loads(wordpiece.to_str())["model"]["vocab"], lowercase)
    return Tokenizer(json.dumps(content, ensure_ascii=False, indent=1).encode(), wordpiece_config(model_max_length))


def _untrained(lowercase: bool) -> tokenizers.Tokenizer:
    empty = {token: index for index, token in enumerate(SPECIAL)}
    return tokenizers.Tokenizer.from_str(json.dumps(wordpiece_json(empty, lowercase)))


def _forms(wordpiece: tokenizers.Tokenizer, characters: list[str]) -> tuple[list[str], list[str]]:
    """What normalisation leaves of the characters: all of them, and those that can stand inside a word."""
    assert wordpiece.normalizer is not None and wordpiece.pre_tokenizer is not None
    normal = sorted({c for character in characters for c in wordpiece.normalizer.normalize_str(character)} - {" "})
    words = {c: wordpiece.pre_tokenizer.pre_tokenize_str(f"a{c}a") for c in normal}
    first = [c for c in normal if wordpiece.pre_tokenizer.pre_tokenize_str(c)]
    return first, [c for c in first if len(words[c]) == 1]
