"""A small tokenizer of each kind, trained once for all tests."""

import functools
import json
from pathlib import Path

from data_pipeline.tokenizer import Tokenizer, train_tokenizer
from data_pipeline.tokenizer.settings import ModelKind
from tests.data_pipeline.conftest import sample_rows

KINDS: tuple[ModelKind, ...] = ("byte_bpe", "sentencepiece_unigram", "sentencepiece_bpe", "wordpiece")
VOCAB_SIZE = 2000


def sample_texts(english: int = 60, chinese: int = 60) -> list[str]:
    """Documents of the sample corpus."""
    return [row["text"] for row in sample_rows("en.jsonl", english) + sample_rows("zh.jsonl", chinese)]


@functools.cache
def small_tokenizer(kind: ModelKind) -> Tokenizer:
    """A tokenizer of 2,000 tokens at most, English and Chinese."""
    return train_tokenizer(sample_texts(), VOCAB_SIZE, model=kind)


def saved(kind: ModelKind, folder: Path) -> Path:
    """The same in a folder."""
    small_tokenizer(kind).save(folder)
    return folder


def json_of(folder: Path) -> dict:
    """Content of the folder's tokenizer.json."""
    return json.loads((folder / "tokenizer.json").read_bytes())
