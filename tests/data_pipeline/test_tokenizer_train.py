"""Each kind of tokenizer: trained byte for byte again, nothing of a text lost, special tokens in a text stay text."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.errors import DataError
from data_pipeline.tokenizer import Tokenizer, train_tokenizer
from data_pipeline.tokenizer.alphabet import frequent_characters
from data_pipeline.tokenizer.settings import TrainTokenizer, smallest_vocab_size
from tests.data_pipeline.conftest import write_jsonl
from tests.data_pipeline.hostile import SPECIALS, hostile_texts
from tests.data_pipeline.test_command import fails, megamodel
from tests.data_pipeline.trained import KINDS, VOCAB_SIZE, sample_texts, small_tokenizer

LOSSLESS = KINDS[:3]


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_texts_give_the_same_bytes_in_any_process(kind, tmp_path: Path):
    code = (
        "import sys; from tests.data_pipeline.trained import small_tokenizer;print(small_tokenizer(sys.argv[1]).digest)"
    )
    for threads, hash_seed in (("1", "1"), ("3", "2")):
        environment = {**os.environ, "RAYON_NUM_THREADS": threads, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            [sys.executable, "-c", code, kind], env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == small_tokenizer(kind).digest


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_in_a_text_stay_text(kind):
    tokenizer = small_tokenizer(kind)
    special = {*tokenizer.special_tokens.values()} - {tokenizer.special_tokens.get("[UNK]", -1)}
    assert special
    texts = [
        f"{a}{token}{b}" for token in {*SPECIALS, *tokenizer.special_tokens} for a in ("", "x", " ") for b in ("", "x")
    ]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert not special & {*ids.tolist()}, text
        if kind in LOSSLESS:
            assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", LOSSLESS)
def test_nothing_of_a_text_is_lost(kind):
    """But for U+2581, which sentencepiece reads as a space."""
    tokenizer = small_tokenizer(kind)
    lengths = tokenizer.token_byte_lengths()
    for text in hostile_texts(600):
        plain = text.replace("▁", " ") if kind != "byte_bpe" else text
        (ids,) = tokenizer.encode_batch([plain])
        assert tokenizer.decode(ids) == plain
        assert lengths[ids].sum() == len(plain.encode())


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_tokenizer_is_read_back_as_the_same(kind, tmp_path: Path):
    one = small_tokenizer(kind)
    one.save(tmp_path / "a")
    other = Tokenizer.load(tmp_path / "a")
    other.save(tmp_path / "b")
    assert {p.name: p.read_bytes() for p in (tmp_path / "a").iterdir()} == {
        p.name: p.read_bytes() for p in (tmp_path / "b").iterdir()
    }
    assert (other.digest, other.eos_id, other.vocab_size) == (one.digest, one.eos_id, one.vocab_size)
    texts = list(hostile_texts(50))
    assert [i.tolist() for i in one.encode_batch(texts)] == [i.tolist() for i in other.encode_batch(texts)]


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_has_the_size_that_was_asked_for(kind):
    tokenizer = small_tokenizer(kind)
    assert VOCAB_SIZE * 0.9 <= tokenizer.vocab_size <= VOCAB_SIZE
    assert train_tokenizer(sample_texts(5, 5), 400, model=kind).vocab_size <= (400 if kind == "wordpiece" else 4000)


def test_the_alphabet_is_of_the_most_frequent_characters():
    texts = ["c" * 9000 + "b" * 900 + "a" * 90, "éd" + "b" * 9]
    assert frequent_characters(texts, 2) == (["c", "b"], ["a", "d", "é"])
    assert frequent_characters(texts, 9) == (["c", "b", "a"], ["d", "é"]), "the last ones are under 0.0005"


def test_wordpiece_in_lower_case_ignores_accents():
    tokenizer = train_tokenizer(sample_texts(20, 0), 500, model="wordpiece", lowercase=True)
    one, other = tokenizer.encode_batch(["The CAFÉ of the nation", "the cafe of the nation"])
    assert one.tolist() == other.tolist()
    exact = small_tokenizer("wordpiece").encode_batch(["The nation", "the nation"])
    assert exact[0].tolist() != exact[1].tolist()


@pytest.mark.parametrize("kind", KINDS)
def test_texts_without_a_word_give_what_nothing_has_to_be_learnt_for(kind):
    assert train_tokenizer(["", "\n"], 400, model=kind).vocab_size <= smallest_vocab_size(kind) + 1


@pytest.mark.parametrize("kind", LOSSLESS)
@pytest.mark.parametrize("vocab_size", [358, 400])
def test_a_corpus_without_spaces_or_letters_leaves_them_whole(kind, vocab_size: int):
    """sentencepiece would spell a space that it never saw as the bytes of U+2581."""
    tokenizer = train_tokenizer(["床前明月光，疑是地上霜。"] * 9, vocab_size, model=kind)
    text = " a b  <漢>\n"
    (ids,) = tokenizer.encode_batch([text])
    assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_vocabulary_spells_words_and_a_smaller_one_is_refused(kind):
    special = [] if kind == "wordpiece" else ["<|a|>", "<|b|>"]
    smallest = smallest_vocab_size(kind, len(special))
    tokenizer = train_tokenizer(sample_texts(20, 5), smallest, model=kind, special_tokens=special)
    text = "the nation of the people"
    assert tokenizer.decode(tokenizer.encode_batch([text])[0]) == text
    with pytest.raises(DataError, match=f"is too small: {kind} begins with {smallest} tokens"):
        train_tokenizer(["text"], smallest - 1, model=kind, special_tokens=special)
    with pytest.raises(ValueError, match=r"too small|greater than or equal to 257"):
        TrainTokenizer(kind="train", model=kind, vocab_size=smallest - 1, special_tokens=tuple(special))


def test_lowercase_is_refused_elsewhere():
    with pytest.raises(DataError, match="lowercase is for model: wordpiece"):
        train_tokenizer(["a"], 300, lowercase=True)
    with pytest.raises(ValueError, match="lowercase is for model: wordpiece"):
        TrainTokenizer(kind="train", vocab_size=300, lowercase=True)


@pytest.mark.parametrize("token", ["a", "\u0120the", "\u00c3\u00a9", "\u2581", "\n\n"])
def test_special_tokens_that_text_would_become_are_refused(token: str):
    with pytest.raises(ValueError, match="too like text"):
        TrainTokenizer(kind="train", vocab_size=1000, special_tokens=(token,))


def test_the_command_trains_each_kind(tmp_path: Path):
    corpus = write_jsonl(tmp_path / "corpus.jsonl", [{"text": text} for text in sample_texts(20, 5)])
    arguments = ("data", "train-tokenizer", corpus, "--vocab-size", 600, "--out")
    for kind, eos in (("sentencepiece_bpe", "</s>"), ("wordpiece", "[SEP]")):
        made = megamodel(*arguments, tmp_path / kind, "--model", kind)
        assert made.returncode == 0, made.stderr
        assert Tokenizer.load(tmp_path / kind).eos_token == eos
    fails(2, "lowercase is for model: wordpiece", run=megamodel(*arguments, tmp_path / "x", "--lowercase"))
