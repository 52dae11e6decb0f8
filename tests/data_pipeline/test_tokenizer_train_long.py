"""Training on endless words and giant documents: in linear time, in little memory, on no more than was asked for."""

import gzip
import itertools
import json
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_pipeline.config import PrepareConfig
from data_pipeline.execute import prepare
from data_pipeline.execute.stages.tokenizer import first_bytes
from data_pipeline.tokenizer import train_tokenizer
from data_pipeline.tokenizer.settings import ModelKind
from data_pipeline.tokenizer.training_text import LONGEST_LEARNT
from tests.data_pipeline.trained import sample_texts

WORD_KINDS: tuple[ModelKind, ...] = ("byte_bpe", "wordpiece")
"""Learn from words; sentencepiece has lines of its own."""


def vocabulary(kind: ModelKind, texts: list[str], size: int = 1500) -> dict[str, int]:
    content = train_tokenizer(texts, size, model=kind).to_json()
    assert content is not None
    return json.loads(content)["model"]["vocab"]


@pytest.mark.parametrize("kind", [*WORD_KINDS, "sentencepiece_bpe"])
@pytest.mark.parametrize("letters", ["ACGT", "!?*-"], ids=["letters", "marks"])
def test_an_endless_word_takes_linear_time(kind: ModelKind, letters: str) -> None:
    """As one word, 200,000 characters take more than 8 seconds and a megabyte minutes; cut, half a second."""
    endless = "".join(random.Random(7).choices(letters, k=200_000))
    start = time.process_time()
    train_tokenizer(["some words", endless], 1024, model=kind)
    assert time.process_time() - start < 2


@pytest.mark.parametrize("kind", WORD_KINDS)
def test_only_words_beyond_the_bound_are_cut(kind: ModelKind) -> None:
    """A word of just that length is learnt to its end, one letter more is another word."""
    word = "".join(random.Random(7).choices("abcdefgh", k=LONGEST_LEARNT))
    assert word in vocabulary(kind, [word])
    longer = vocabulary(kind, [word + "a"])
    assert word in longer and word + "a" not in longer


@pytest.mark.parametrize("kind", WORD_KINDS)
def test_a_giant_document_has_the_words_of_its_parts(kind: ModelKind) -> None:
    """It is cut between words: the same tokenizer as from it word by word."""
    text = re.sub(r"\s+", " ", " ".join(sample_texts(40, 20))) * 3
    assert len(text) > 3 << 16
    assert vocabulary(kind, [text]) == vocabulary(kind, re.findall(r" ?[^ ]+", text))


def test_a_giant_document_takes_little_memory() -> None:
    """16 MB of English in one text: 12 bytes for each is what the setting promises, as one piece it was 38."""
    code = (
        "import resource; from data_pipeline.tokenizer import train_tokenizer;"
        "from tests.data_pipeline.trained import sample_texts;"
        "one = ' '.join(sample_texts(60, 0)); text = one * (16_000_000 // len(one)); train_tokenizer(['a b'], 300);"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; train_tokenizer([text], 600);"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / len(text))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert float(done.stdout) < 12


def test_no_more_is_taken_than_the_sample() -> None:
    texts = ["ab", "", "čč", "a床b", "never seen"]
    for limit, taken in {2: "ab", 3: "ab", 5: "abč", 7: "abčča", 9: "abčča", 10: "abčča床", 13: "abčča床bne"}.items():
        assert "".join(first_bytes(iter(texts), limit)) == taken
    assert sum(map(len, first_bytes(itertools.repeat("word "), 1003))) == 1003


def test_a_giant_document_does_not_exceed_the_sample(tmp_path: Path) -> None:
    """Compressed 200 times: the size of the file does not tell that the text is beyond `sample_bytes`."""
    giant = "apple pear " * 2000 + "zucchini " * 4000
    corpus = tmp_path / "corpus.jsonl.gz"
    corpus.write_bytes(gzip.compress(json.dumps({"id": "1", "text": giant}).encode()))
    found = []
    for size in (15_000, 1 << 27):
        settings = {
            "out": tmp_path / str(size),
            "sources": [{"kind": "files", "files": [str(corpus)]}],
            "tokenizer": {"kind": "train", "vocab_size": 400, "sample_bytes": size},
            "validation_fraction": 0,
        }
        content = prepare(PrepareConfig.model_validate(settings)).tokenizer.to_json()
        assert content is not None
        found.append("Ġzucchini" in json.loads(content)["model"]["vocab"])
    assert found == [False, True]
