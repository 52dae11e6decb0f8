"""Words and sentences by token ids, for the kinds of vocabularies there are."""

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from data_pipeline.errors import DataError
from data_pipeline.mixture.token_tables import TokenTables

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
ENGLISH = "The electronics weren't cheap (12.5 dollars!). Said who? Nobody knows…\nA new line begins. "
CHINESE = "床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。你好world！"
TEXTS = [ENGLISH * 3, CHINESE * 3, "Ça coûte cher. Привет, мир! 안녕 세계."]


def word_piece(size: int = 400) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False)
    )
    return tokenizer


def byte_level(size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(vocab_size=size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return tokenizer


def unigram() -> Tokenizer:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=150, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return tokenizer


def words_of(tokenizer: Tokenizer, text: str) -> list[str]:
    """The text of each word as the tables see them."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    starts = TokenTables.of(tokenizer.to_str().encode()).word_starts(np.array(encoding.ids))
    firsts = [encoding.offsets[n][0] for n in np.flatnonzero(starts)]
    return [text[begin:end].strip() for begin, end in zip(firsts, [*firsts[1:], len(text)], strict=True)]


def sentences_of(tokenizer: Tokenizer, text: str) -> list[str]:
    """The text of each sentence as the tables see them."""
    encoding = tokenizer.encode(text, add_special_tokens=False)
    ends = TokenTables.of(tokenizer.to_str().encode()).sentence_ends(np.array(encoding.ids))
    lasts = [encoding.offsets[n - 1][1] for n in ends.tolist()]
    return [text[begin:end].strip() for begin, end in zip([0, *lasts], [*lasts, len(text)], strict=True)]


WORDS = ["The", "electronics", "weren", "'", "t", "cheap", "(", "12", ".", "5"]


@pytest.mark.parametrize("tokenizer", [word_piece(150), word_piece(), byte_level(262), byte_level(320)])
def test_words_are_whole(tokenizer: Tokenizer):
    """The same words, in however many tokens; a mark may join marks, and an apostrophe what it shortens."""
    found = words_of(tokenizer, "The electronics weren't cheap (12.5 dollars")
    assert " ".join(found).replace("'t", "' t").split() == [*WORDS, "dollars"]


@pytest.mark.parametrize("tokenizer", [word_piece(), byte_level(262)])
def test_chinese_words_are_characters(tokenizer: Tokenizer):
    assert words_of(tokenizer, "床前明月光，疑是")[:8] == list("床前明月光，疑是")


def test_a_continuing_piece_goes_on_with_its_word_behind_a_symbol():
    """Symbols that BERT does not split off are letters to it."""
    tokenizer = word_piece(150)
    tokenizer.add_tokens(["a→", "##→", "##b"])
    ids = np.array([tokenizer.token_to_id(piece) for piece in ("a→", "##→", "##b", "a→")])
    assert TokenTables.of(tokenizer.to_str().encode()).word_starts(ids).tolist() == [True, False, False, True]


def test_words_in_other_scripts_and_between_scripts():
    tokenizer = byte_level(300)
    assert words_of(tokenizer, "Привет, мир! Ça coûte") == ["Привет", ",", "мир", "!", "Ça", "coûte"]
    assert words_of(word_piece(), "你好world！")[:3] == ["你", "好", "world"]


def test_words_of_a_sentencepiece_vocabulary():
    tokenizer = unigram()
    found = words_of(tokenizer, "The electronics cheap. 床前")
    assert found[:3] == ["The", "electronics", "cheap"]
    assert "".join(found[3:]) == ".床前"


@pytest.mark.parametrize("tokenizer", [word_piece(), byte_level(330), byte_level(400)])
def test_sentences(tokenizer: Tokenizer):
    found = sentences_of(tokenizer, 'Said who? "Nobody knows." A new line. 疑是地上霜。舉頭望明月')
    joined = [part.strip('" ') for part in found if part.strip('" ')]
    assert joined == ["Said who?", "Nobody knows.", "A new line.", "疑是地上霜。", "舉頭望明月"]


def test_a_decimal_point_ends_no_sentence_where_spaces_are_known():
    assert sentences_of(byte_level(300), "It costs 12.5 dollars. Said who?") == ["It costs 12.5 dollars.", "Said who?"]


def test_a_line_break_ends_a_sentence():
    assert sentences_of(byte_level(300), "A line\nThe line") == ["A line", "The line"]


def test_special_tokens_are_words_of_their_own_and_the_unknown_is_text():
    tokenizer = word_piece()
    tables = TokenTables.of(tokenizer.to_str().encode())
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    assert (tables.cls, tables.sep, tables.pad, tables.mask) == tuple(
        ids[f"[{n}]"] for n in ("CLS", "SEP", "PAD", "MASK")
    )
    assert np.flatnonzero(tables.special).tolist() == sorted(set(ids.values()) - {ids["[UNK]"]})
    piece = next(i for token, i in tokenizer.get_vocab().items() if token.startswith("##"))
    row = np.array([ids["[CLS]"], piece, ids["[SEP]"], piece, piece, ids["[UNK]"], piece])
    assert tables.word_starts(row).tolist() == [True, True, True, True, False, True, False]


def test_a_vocabulary_without_berts_tokens_is_refused():
    settings = json.loads(word_piece().to_str())
    settings["added_tokens"] = [token for token in settings["added_tokens"] if token["content"] != "[MASK]"]
    with pytest.raises(DataError, match=r"no \[MASK\], which BERT's sequences need"):
        TokenTables.of(json.dumps(settings).encode())
