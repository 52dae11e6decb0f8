"""Published tokenizers give the ids of the library that defines them, on real corpora and on hostile Unicode.

Slow, and on files that are not part of the project. To run it, with a folder of .jsonl.zst as MEGAMODEL_CORPORA:

    python tests/data_pipeline/fetch_tokenizers.py $MEGAMODEL_TOKENIZERS
    pytest -m slow -s tests/data_pipeline/test_tokenizer_real.py
"""

import base64
import functools
import io
import json
import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import pytest

from data_pipeline.tokenizer import Tokenizer
from tests.data_pipeline.hostile import SPECIALS, every_code_point, hostile_texts

TOKENIZERS = Path(os.environ.get("MEGAMODEL_TOKENIZERS", "-"))
CORPORA = Path(os.environ.get("MEGAMODEL_CORPORA", "-"))
HOSTILE = 20_000
_BATCH = 500
Encode = Callable[[list[str]], list[list[int]]]
"""Texts to ids by the defining library."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not TOKENIZERS.is_dir(),
        reason="MEGAMODEL_TOKENIZERS names no folder; python tests/data_pipeline/fetch_tokenizers.py FOLDER makes one",
    ),
]


def by_tiktoken(ranks: dict[bytes, int], pattern: str, first: int = 0) -> Encode:
    import tiktoken

    encoding = tiktoken.Encoding("real", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
    return lambda texts: [[i + first for i in ids] for ids in encoding.encode_ordinary_batch(texts)]


def by_ranks_file(path: Path) -> Encode:
    """With the patterns that tiktoken itself has for these names."""
    import tiktoken_ext.openai_public as public

    ranks = {base64.b64decode(a): int(b) for a, b in map(bytes.split, path.read_bytes().splitlines())}
    public.load_tiktoken_bpe = lambda *_, **__: ranks  # it would download the file that is here
    return by_tiktoken(ranks, getattr(public, path.stem)()["pat_str"])


def by_tekken(path: Path) -> Encode:
    content = json.loads(path.read_bytes())
    first = content["config"]["default_num_special_tokens"]
    size = content["config"]["default_vocab_size"] - first
    vocab = [entry for entry in content["vocab"] if entry["rank"] < size]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in vocab}
    return by_tiktoken(ranks, content["config"]["pattern"], first)


def by_huggingface(path: Path) -> Encode:
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
    tokenizer.encode_special_tokens = True
    return lambda texts: [e.ids for e in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


def by_sentencepiece(path: Path) -> Encode:
    import sentencepiece

    return sentencepiece.SentencePieceProcessor(model_file=str(path)).encode


def by_bert(path: Path) -> Encode:
    """transformers' own rules around the `tokenizers` library."""
    from transformers import BertTokenizer

    bert = BertTokenizer(vocab=str(path), do_lower_case=True)
    options = {"add_special_tokens": False, "split_special_tokens": True, "return_attention_mask": False}
    return lambda texts: bert(texts, **options)["input_ids"]


def by_first_bert(path: Path) -> Encode:
    """The Python code that came with BERT, as transformers keeps it."""
    from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

    bert = BertTokenizerLegacy(str(path), do_lower_case=True)
    return lambda texts: [bert.convert_tokens_to_ids(bert._tokenize(text, split_special_tokens=True)) for text in texts]


REAL: dict[str, Callable[[Path], Encode]] = {
    "r50k_base.tiktoken": by_ranks_file,
    "p50k_base.tiktoken": by_ranks_file,
    "cl100k_base.tiktoken": by_ranks_file,
    "o200k_base.tiktoken": by_ranks_file,
    "llama3": by_huggingface,
    "qwen3": by_huggingface,
    "mistral/tokenizer.model.v1": by_sentencepiece,
    "mistral/mistral_instruct_tokenizer_240216.model.v2": by_sentencepiece,
    "mistral/mistral_instruct_tokenizer_240323.model.v3": by_sentencepiece,
    "mistral/mistral_instruct_tokenizer_241114.model.v7": by_sentencepiece,
    "mistral/tekken_240911.json": by_tekken,
    "bert/vocab.txt": by_bert,
}


@functools.cache
def corpus(name: str) -> list[str]:
    import zstandard

    with (CORPORA / name).open("rb") as file, zstandard.ZstdDecompressor().stream_reader(file) as stream:
        return [json.loads(line)["text"] for line in io.TextIOWrapper(stream, encoding="utf-8")]


def corpora() -> dict[str, Iterator[str]]:
    """The documents of each corpus, by the name of the file."""
    files = sorted(CORPORA.glob("*.jsonl.zst")) if CORPORA.is_dir() else []
    return {file.name: iter(corpus(file.name)) for file in files}


def hostile() -> dict[str, Iterator[str]]:
    """Texts that no corpus has."""
    return {"hostile": iter([*hostile_texts(HOSTILE, seed=11), *SPECIALS]), "every code point": every_code_point()}


def differences(tokenizer: Tokenizer, theirs: Encode, texts: Iterator[str]) -> tuple[int, list[str]]:
    """How many texts were compared, and which have other ids."""
    count, wrong = 0, []
    while batch := list(islice(texts, _BATCH)):
        count += len(batch)
        found = tokenizer.encode_batch(batch)
        wrong += [t for t, ours, ids in zip(batch, found, theirs(batch), strict=True) if ours.tolist() != ids]
    return count, wrong


@pytest.mark.parametrize("name", REAL)
def test_a_published_tokenizer_gives_the_ids_of_its_library(name: str):
    tokenizer = Tokenizer.load(TOKENIZERS / name, fast=True)
    theirs = REAL[name](TOKENIZERS / name)
    for kind, texts in (corpora() | hostile()).items():
        count, wrong = differences(tokenizer, theirs, texts)
        print(f"{name} ({tokenizer.encoder}), {kind}: {count:,} texts, {len(wrong)} differ")
        assert not wrong, (kind, len(wrong), wrong[:3])


def test_the_first_bert_reads_the_corpora_alike():
    """But for binary rubbish: its Python code drops code points that are not assigned, `tokenizers` does not."""
    path = TOKENIZERS / "bert/vocab.txt"
    tokenizer, theirs = Tokenizer.load(path), by_first_bert(path)
    for kind, texts in corpora().items():
        count, wrong = differences(tokenizer, theirs, texts)
        print(f"the first BERT, {kind}: {count:,} texts, {len(wrong)} differ")
        assert all(text.startswith("GIF89a") for text in wrong)


def test_llama3_ranks_are_llama3s_tokenizer_json(tmp_path: Path):
    """The ranks as Meta publishes them, written from the vocabulary."""
    from data_pipeline.tokenizer.byte_letters import byte_letters

    byte_of = {letter: byte for byte, letter in enumerate(byte_letters())}
    vocab = json.loads((TOKENIZERS / "llama3/tokenizer.json").read_bytes())["model"]["vocab"]
    lines = (base64.b64encode(bytes(byte_of[c] for c in t)) + b" %d\n" % rank for t, rank in vocab.items())
    (tmp_path / "tokenizer.model").write_bytes(b"".join(lines))
    tokenizer = Tokenizer.load(tmp_path / "tokenizer.model", pattern="llama3", fast=True)
    published = Tokenizer.load(TOKENIZERS / "llama3")
    assert tokenizer.special_tokens == published.special_tokens
    assert (tokenizer.eos_token, tokenizer.vocab_size) == ("<|end_of_text|>", 128256)
    count, wrong = differences(tokenizer, by_huggingface(TOKENIZERS / "llama3"), hostile_texts(5000, seed=12))
    assert count == 5000 and not wrong
