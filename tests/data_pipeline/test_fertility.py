"""What a token holds: counted by hand, by language and by source, through the library and the command."""

import json
from pathlib import Path

from data_pipeline.read import Document
from data_pipeline.tokenizer.fertility import Fertility, measure_fertility
from tests.data_pipeline.conftest import write_jsonl
from tests.data_pipeline.test_command import fails, megamodel
from tests.data_pipeline.trained import sample_texts, saved, small_tokenizer


def test_the_sums_are_those_of_the_documents():
    tokenizers = [small_tokenizer("byte_bpe"), small_tokenizer("sentencepiece_bpe"), small_tokenizer("wordpiece")]
    texts = {"one.txt": "ab cd \U00020000 ef", "two.txt": "é\n床", "three.txt": ""}
    documents = [
        Document(text, source, 0, language="en" if source == "one.txt" else None) for source, text in texts.items()
    ]
    measured = measure_fertility(tokenizers, iter(documents))
    for tokenizer, groups in zip(tokenizers, measured, strict=True):
        assert list(groups) == ["all", "language ?", "language en", *(f"source {name}" for name in sorted(texts))]
        assert groups["source three.txt"] == Fertility(documents=1)
        one = groups["language en"]
        assert (one.documents, one.bytes, one.characters, one.words) == (1, 13, 10, 4)
        assert one.tokens == len(tokenizer.encode_batch([texts["one.txt"]])[0])
        assert groups["all"].tokens == one.tokens + groups["language ?"].tokens
    byte_bpe, sentencepiece, wordpiece = (groups["language en"] for groups in measured)
    assert byte_bpe.part_tokens == sentencepiece.part_tokens == 4, "the bytes of U+20000"
    assert (wordpiece.part_tokens, wordpiece.unknown_tokens, byte_bpe.unknown_tokens) == (0, 1, 0)
    assert byte_bpe.ratios["bytes_per_token"] == 13 / byte_bpe.tokens
    assert byte_bpe.ratios["tokens_per_word"] == byte_bpe.tokens / 4


def test_the_command_compares_tokenizers_by_language(tmp_path: Path):
    english = write_jsonl(tmp_path / "en.jsonl", [{"text": text} for text in sample_texts(10, 0)])
    chinese = write_jsonl(tmp_path / "zh.jsonl", [{"text": text} for text in sample_texts(0, 10)])
    paths = [saved("byte_bpe", tmp_path / "bpe"), saved("sentencepiece_unigram", tmp_path / "sp") / "tokenizer.model"]
    options = [part for path in paths for part in ("--tokenizer", path)]
    done = megamodel("data", "fertility", english, chinese, *options, "--json")
    report = json.loads(done.stdout)
    assert list(report) == [str(path) for path in paths]
    for groups in report.values():
        assert {"language en", "language zh", f"source {english}"} <= groups.keys()
        assert groups["language zh"]["characters_per_token"] < groups["language en"]["characters_per_token"]
        assert groups["all"]["bytes"] == sum(len(text.encode()) for text in sample_texts(10, 10))
    limited = json.loads(megamodel("data", "fertility", english, *options, "--max-bytes", 1, "--json").stdout)
    assert limited[str(paths[0])]["all"]["documents"] == 1
    table = megamodel("data", "fertility", english, *options).stdout
    assert "a token" in table and "language en" in table
    other = write_jsonl(tmp_path / "other.jsonl", [{"content": "a"}])
    said = megamodel("data", "fertility", english, other, *options).stderr
    assert f"note: could not be read: {other}, record 0: there is no field 'text'" in said
    (tmp_path / "empty.jsonl").touch()
    fails(2, "corpus is empty", run=megamodel("data", "fertility", tmp_path / "empty.jsonl", *options))
