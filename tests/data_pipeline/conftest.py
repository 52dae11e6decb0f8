"""Small real corpora, tokenizers and shard sets."""

import json
from pathlib import Path

import pytest

from data_pipeline.execute import tokenize
from data_pipeline.shards import ShardSet
from data_pipeline.tokenizer import Tokenizer

SAMPLE = Path(__file__).parents[2] / "data_pipeline" / "sample"


def write_jsonl(path: Path, rows: list[dict]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def sample_rows(name: str, count: int) -> list[dict]:
    """The first documents of the sample corpus, cut to 2,000 characters."""
    lines = (SAMPLE / name).read_text(encoding="utf-8").splitlines()[:count]
    rows = [json.loads(line) for line in lines]
    return [{**row, "text": row["text"][:2000]} for row in rows]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 documents, English and Chinese."""
    folder = tmp_path_factory.mktemp("corpus")
    return write_jsonl(folder / "corpus.jsonl", sample_rows("en.jsonl", 40) + sample_rows("zh.jsonl", 20))


@pytest.fixture(scope="session")
def tokenizer(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A byte-level BPE of 600 tokens, read back from disk."""
    from data_pipeline.execute import train_tokenizer_on

    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer_on([corpus], 600).save(folder)
    return Tokenizer.load(folder)


@pytest.fixture
def shards(corpus: Path, tokenizer: Tokenizer, tmp_path: Path) -> ShardSet:
    """The corpus in several shards, its own copy for each test."""
    tokenize([corpus], tokenizer, tmp_path / "set", tokens_per_shard=10_000)
    opened = ShardSet.open(tmp_path / "set")
    assert len(opened.manifest.shards) >= 3
    return opened
