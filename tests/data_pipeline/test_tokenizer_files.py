"""Tokenizers in every file that they come in: the ids of the library that defines them, sentences about bad ones."""

import base64
import hashlib
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.tokenizer import Tokenizer
from data_pipeline.tokenizer.byte_letters import byte_letters
from data_pipeline.tokenizer.tiktoken_ranks import CL100K, GPT2, O200K
from tests.data_pipeline.hostile import hostile_texts
from tests.data_pipeline.test_command import fails, megamodel
from tests.data_pipeline.trained import json_of, sample_texts, saved, small_tokenizer

TEXTS = [*sample_texts(10, 10), *hostile_texts(1500, seed=3), "a qzxjkv qzxjkvs", "so I'ſ I's"]
POSSESSIVE = r"[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
"""As tiktoken writes cl100k's today, without the contractions."""


def small_ranks() -> dict[bytes, int]:
    """The merges of the small byte-level BPE, as tiktoken has them, and two words: no merges lead to the second."""
    byte_of = {letter: byte for byte, letter in enumerate(byte_letters())}
    vocab = json.loads(small_tokenizer("byte_bpe").to_json() or b"")["model"]["vocab"]
    ordered = sorted((index, token) for token, index in vocab.items() if token != "<|endoftext|>")
    tokens = [bytes(byte_of[letter] for letter in token) for _, token in ordered]
    assert b" I" in tokens
    return {token: rank for rank, token in enumerate([*tokens, b" I'", b" qzxjkv"])}


def ranks_file(path: Path) -> Path:
    """A file as tiktoken reads it."""
    lines = (base64.b64encode(token) + b" %d\n" % rank for token, rank in small_ranks().items())
    path.write_bytes(b"".join(lines))
    return path


def tekken_file(path: Path, special: bool) -> Path:
    """A file as mistral-common reads it, with a hundred ids for special tokens."""
    ranks = small_ranks()
    vocab = [{"rank": r, "token_bytes": base64.b64encode(t).decode(), "token_str": None} for t, r in ranks.items()]
    config = {"pattern": O200K, "default_vocab_size": len(ranks) - 50 + 100, "default_num_special_tokens": 100}
    content = {"config": config, "vocab": vocab}
    if special:
        names = ["<unk>", "<s>", "</s>", "[INST]"]
        content["special_tokens"] = [{"rank": r, "token_str": n, "is_control": True} for r, n in enumerate(names)]
    path.write_text(json.dumps(content))
    return path


def equal_ids(tokenizer: Tokenizer, expected: list[list[int]]) -> None:
    for text, ids, theirs in zip(TEXTS, tokenizer.encode_batch(TEXTS), expected, strict=True):
        assert ids.tolist() == theirs, text


@pytest.mark.parametrize("pattern", [GPT2, CL100K, O200K, r"\p{L}+|\P{L}", POSSESSIVE])
@pytest.mark.parametrize("fast", [True, False])
def test_ranks_give_tiktokens_ids(pattern: str, fast: bool, tmp_path: Path):
    tiktoken = pytest.importorskip("tiktoken")
    tokenizer = Tokenizer.load(
        ranks_file(tmp_path / "some.tiktoken"), fast=fast, pattern=pattern, eos_token="<|endoftext|>"
    )
    theirs = tiktoken.Encoding("some", pat_str=pattern, mergeable_ranks=small_ranks(), special_tokens={})
    equal_ids(tokenizer, theirs.encode_ordinary_batch(TEXTS))
    assert tokenizer.encoder == ("fastokens" if fast else "tokenizers"), tokenizer.note
    assert tokenizer.eos_id == len(small_ranks()) == tokenizer.vocab_size - 1
    assert tokenizer.token_byte_lengths()[:-1].tolist() == [len(token) for token in small_ranks()]


@pytest.mark.parametrize("special", [True, False])
def test_tekken_gives_tiktokens_ids_behind_the_special_ones(special: bool, tmp_path: Path):
    tiktoken = pytest.importorskip("tiktoken")
    tokenizer = Tokenizer.load(tekken_file(tmp_path / "tekken.json", special), fast=True)
    ranks = dict(list(small_ranks().items())[:-50])
    theirs = tiktoken.Encoding("some", pat_str=O200K, mergeable_ranks=ranks, special_tokens={})
    equal_ids(tokenizer, [[i + 100 for i in ids] for ids in theirs.encode_ordinary_batch(TEXTS)])
    assert tokenizer.eos_id == 2 and tokenizer.special_tokens["[INST]"] == 3
    assert len(tokenizer.special_tokens) == 100 and tokenizer.vocab_size == len(ranks) + 100


@pytest.mark.parametrize("kind", ["sentencepiece_bpe", "sentencepiece_unigram"])
@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model.v3", "other"])
def test_a_sentencepiece_model_gives_sentencepieces_ids(kind, name: str, tmp_path: Path):
    import sentencepiece

    shutil.copy(saved(kind, tmp_path / "saved") / "tokenizer.model", tmp_path / name)
    tokenizer = Tokenizer.load(tmp_path / name, fast=True)
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / name))
    equal_ids(tokenizer, theirs.encode(TEXTS))
    assert tokenizer.eos_id == theirs.eos_id() and tokenizer.vocab_size == theirs.vocab_size()
    assert tokenizer.digest == hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()


def test_user_defined_pieces_and_normalisation_are_sentencepieces(tmp_path: Path):
    """What no tokenizer.json says exactly: NFKC, symbols that are one piece wherever they stand, spaces dropped."""
    import sentencepiece

    lines = [line for text in sample_texts(40, 20) for line in text.replace("<", "").split("\n")]
    common = {"vocab_size": 2500, "minloglevel": 2, "num_threads": 1, "user_defined_symbols": ["[REF]", "[/REF]", "ab"]}
    ascii_ = "".join(map(chr, range(33, 127)))
    identity = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "byte_fallback": True}
    kinds = [
        {"model_type": "bpe", "required_chars": ascii_, **identity},
        {"model_type": "bpe"},
        {"model_type": "unigram"},
        {"model_type": "bpe", **identity},  # it has no `<`, with which the names of the special pieces begin
    ]
    texts = [*TEXTS, "a[REF]b", "[REF]", " [REF] [/REF]ab abab", "ﬁne ① ｱ  b "]
    for number, more in enumerate(kinds):
        prefix = tmp_path / f"m{number}"
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_prefix=str(prefix), **common, **more
        )
        tokenizer = Tokenizer.load(f"{prefix}.model", fast=True)
        assert tokenizer.encoder == ("fastokens" if number == 0 else "sentencepiece"), tokenizer.note
        assert number == 0 or "only sentencepiece" in tokenizer.note
        theirs = sentencepiece.SentencePieceProcessor(model_file=f"{prefix}.model").encode(texts)
        assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == theirs


@pytest.mark.parametrize("lowercase", [True, False])
def test_a_vocab_txt_gives_berts_ids(lowercase: bool, tmp_path: Path):
    legacy = pytest.importorskip("transformers.models.bert.tokenization_bert_legacy")
    vocab = sorted(json_of(saved("wordpiece", tmp_path / "saved"))["model"]["vocab"].items(), key=lambda item: item[1])
    entries = [token for token, _ in vocab if not lowercase or token == token.lower() or token.startswith("[")]
    (tmp_path / "vocab.txt").write_text("\n".join(entries) + "\n")
    tokenizer = Tokenizer.load(tmp_path / "vocab.txt")
    theirs = legacy.BertTokenizerLegacy(str(tmp_path / "vocab.txt"), do_lower_case=lowercase)
    for text in sample_texts(10, 10):
        expected = theirs.convert_tokens_to_ids(theirs.tokenize(text))
        assert tokenizer.encode_batch([text])[0].tolist() == expected
    assert tokenizer.eos_token == "[SEP]" and Tokenizer.load(tmp_path).digest == tokenizer.digest


def test_a_unigram_tokenizer_json_does_not_reach_its_special_tokens(tmp_path: Path):
    saved("sentencepiece_unigram", tmp_path)
    content = json_of(tmp_path)
    tokenizer = Tokenizer((tmp_path / "tokenizer.json").read_bytes(), {"eos_token": "</s>"})
    texts = ["a </s> b", "<s>", "</s></s>", "x<s>y", *TEXTS[:20]]
    for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
        assert not {0, 1, 2} & {*ids.tolist()}, text
        assert tokenizer.decode(ids) == text.replace("▁", " ")
    assert [token["content"] for token in content["added_tokens"]] == ["<unk>", "<s>", "</s>"]
    assert tokenizer.decode([2]) == "</s>"


def test_the_tokenizer_json_of_a_folder_counts_unless_it_was_made_from_the_model(tmp_path: Path):
    folder = saved("sentencepiece_bpe", tmp_path / "saved")
    assert Tokenizer.load(folder).encoder == "sentencepiece"
    (folder / "tokenizer_config.json").write_text('{"eos_token": {"content": "</s>"}}')
    assert Tokenizer.load(folder).encoder == "tokenizers"


def test_every_kind_is_saved_and_read_back_as_the_same(tmp_path: Path):
    vocab = sorted(json_of(saved("wordpiece", tmp_path / "saved"))["model"]["vocab"].items(), key=lambda item: item[1])
    (tmp_path / "vocab.txt").write_text("\n".join(token for token, _ in vocab))
    files = [ranks_file(tmp_path / "r.tiktoken"), tekken_file(tmp_path / "tekken.json", True), tmp_path / "vocab.txt"]
    for number, file in enumerate(files):
        one = Tokenizer.load(file, pattern="o200k?" if number == 0 else None, eos_token=None if number else "<|end|>")
        one.save(tmp_path / str(number))
        other = Tokenizer.load(tmp_path / str(number))
        assert (other.digest, other.eos_id, other.eos_token) == (one.digest, one.eos_id, one.eos_token)
        np.testing.assert_array_equal(other.encode_flat(TEXTS).ids, one.encode_flat(TEXTS).ids)


def test_the_end_of_a_document_can_be_named(tmp_path: Path):
    folder = saved("wordpiece", tmp_path)
    assert Tokenizer.load(folder, eos_token="[CLS]").eos_id == 2
    (folder / "tokenizer_config.json").unlink()
    assert Tokenizer.load(folder / "tokenizer.json", eos_token="[SEP]").eos_id == 3
    with pytest.raises(DataError, match="`eos_token`"):
        Tokenizer.load(folder)
    with pytest.raises(DataError, match=r"'\[END\]'.*special tokens: \[PAD\], \[UNK\]"):
        Tokenizer.load(folder, eos_token="[END]")


@pytest.mark.parametrize(
    ("name", "content", "part"),
    [
        ("none", None, "no tokenizer at"),
        ("x.tiktoken", b"aGVsbG8= 0\nd29ybGQ= 1\n", "set `pattern`"),
        ("cl100k_base.tiktoken", b"aGVsbG8= 0\nd29ybGQ= 1\n", "byte 0x00 is missing"),
        ("cl100k_base.tiktoken", b"aGVsbG8= 0\nd29ybGQ=\n", "line 2"),
        ("tokenizer.json", b"{}", "this JSON is no tokenizer"),
        ("tokenizer.json", b"[1", "known here"),
        ("tokenizer.json", b'{"model": 1', "damaged"),
        ("tekken.json", b'{"config": {}, "vocab": []}', "damaged"),
        ("vocab.txt", b"[PAD]\n[UNK]\n[CLS]\n", r"no \[SEP\]"),
        ("some.model", b"what is this", "known here"),
        ("some.model", b"", "known here"),
    ],
)
def test_a_bad_file_is_told_in_a_sentence(name: str, content: bytes | None, part: str, tmp_path: Path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=part) as error:
        Tokenizer.load(tmp_path / name, eos_token="</s>" if name == "tokenizer.json" else None)
    assert str(tmp_path) in str(error.value)


def test_ranks_are_not_taken_for_others(tmp_path: Path):
    with pytest.raises(DataError, match="p50k has 50,280 ranks, this file 2,001"):
        Tokenizer.load(ranks_file(tmp_path / "x.tiktoken"), pattern="p50k")
    with pytest.raises(DataError, match="set `eos_token`"):
        Tokenizer.load(tmp_path / "x.tiktoken", pattern=CL100K)
    with pytest.raises(DataError, match="possessively"):
        Tokenizer.load(tmp_path / "x.tiktoken", pattern=r"(a|b){1,3}+|.", eos_token="<|endoftext|>")
    with pytest.raises(DataError, match="several tokenizers"):
        shutil.copy(tmp_path / "x.tiktoken", tmp_path / "y.tiktoken")
        Tokenizer.load(tmp_path)


def test_dropout_drops_nothing(tmp_path: Path):
    """It leaves merges out at random, which is for the training of a model that sees its text many times."""
    folder = saved("byte_bpe", tmp_path)
    content = json.loads((folder / "tokenizer.json").read_bytes())
    content["model"]["dropout"] = 0.5
    (folder / "tokenizer.json").write_text(json.dumps(content))
    for fast in (True, False):
        equal_ids(
            Tokenizer.load(folder, fast=fast), [i.tolist() for i in small_tokenizer("byte_bpe").encode_batch(TEXTS)]
        )


def test_a_library_that_panics_is_a_sentence():
    """`tokenizers` does where the spaces that two added tokens take away overlap."""
    added = [{"id": index, "content": text, **flags} for index, (text, flags) in enumerate(_PANICKING.items(), 600)]
    content = json.loads(small_tokenizer("byte_bpe").to_json() or b"")
    content["added_tokens"] += [entry | {"single_word": False, "normalized": True, "special": False} for entry in added]
    tokenizer = Tokenizer(json.dumps(content).encode(), {"eos_token": "<|endoftext|>"})
    with pytest.raises(DataError, match="tokenizers cannot encode a text"):
        tokenizer.encode_batch(["  \n\n\u1680"])


_PANICKING = {"  ": {"lstrip": False, "rstrip": True}, "\n\n": {"lstrip": True, "rstrip": False}}


def test_damaged_files_never_give_a_traceback(tmp_path: Path):
    """Cut and flipped bytes: read as something, or refused in a sentence."""
    draw = random.Random(0)
    saved("sentencepiece_unigram", tmp_path / "unigram")
    saved("wordpiece", tmp_path / "wordpiece")
    files = [
        tmp_path / "unigram" / "tokenizer.model",
        tmp_path / "wordpiece" / "tokenizer.json",
        ranks_file(tmp_path / "gpt2.tiktoken"),
        tekken_file(tmp_path / "tekken.json", True),
    ]
    refused = 0
    for file in files:
        whole = file.read_bytes()
        for _ in range(25):
            data = bytearray(whole[: draw.randrange(len(whole))] if draw.random() < 0.4 else whole)
            for _ in range(draw.randrange(1, 6)):
                if data:
                    data[draw.randrange(len(data))] = draw.randrange(256)
            (tmp_path / "damaged").mkdir(exist_ok=True)
            path = tmp_path / "damaged" / file.name
            path.write_bytes(data)
            try:
                Tokenizer.load(path, eos_token="</s>" if file.suffix == ".json" else None)
            except DataError:
                refused += 1
    assert refused > 40


def test_the_command_takes_any_kind(tmp_path: Path):
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("Some words, and 床前明月光 <|endoftext|> </s>.")
    saved("sentencepiece_bpe", tmp_path / "sp")
    ranks = ranks_file(tmp_path / "x.tiktoken")
    arguments = ("data", "tokenize", corpus, "--json", "--out")
    options = ("--pattern", "[a-z]+|[^a-z]", "--eos-token", "<|end|>")
    assert megamodel(*arguments, tmp_path / "a", "--tokenizer", tmp_path / "sp" / "tokenizer.model").returncode == 0
    assert megamodel(*arguments, tmp_path / "b", "--tokenizer", ranks, *options).returncode == 0
    fails(2, "set `pattern`", run=megamodel(*arguments, tmp_path / "c", "--tokenizer", ranks))


def with_pieces(path: Path, pieces: dict[str, float]) -> Path:
    """The small sentencepiece BPE with more pieces, or other scores."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto()
    model.ParseFromString((saved("sentencepiece_bpe", path.parent / "saved") / "tokenizer.model").read_bytes())
    for piece in model.pieces:
        piece.score = pieces.pop(piece.piece, piece.score)
    for text, score in pieces.items():
        model.pieces.add(piece=text, score=score, type=1)
    path.write_bytes(model.SerializeToString())
    return path


def test_runs_with_one_score_are_merged_as_sentencepiece_merges_them(tmp_path: Path):
    """Mistral scores every run of spaces -1e9, so that the leftmost two merge first, whatever their lengths."""
    import sentencepiece

    runs = {"▁" * length: -1e9 for length in (*range(2, 15), 16)}
    path = with_pieces(tmp_path / "runs.model", runs)
    tokenizer = Tokenizer.load(path, fast=True)
    assert tokenizer.encoder == "fastokens", tokenizer.note
    texts = [
        before + " " * length + after for length in range(70) for before in ("", "a", "\n") for after in ("", "the")
    ]
    theirs = sentencepiece.SentencePieceProcessor(model_file=str(path)).encode(texts)
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == theirs


def test_other_pieces_with_one_score_are_left_to_sentencepiece(tmp_path: Path):
    pieces = list(json_of(saved("sentencepiece_bpe", tmp_path / "saved"))["model"]["vocab"])
    two = [text for text in pieces if text.isalpha() and text.isascii() and len(text) == 3][:2]
    tokenizer = Tokenizer.load(with_pieces(tmp_path / "tied.model", dict.fromkeys(two, -5000.0)), fast=True)
    assert tokenizer.encoder == "sentencepiece" and "only sentencepiece" in tokenizer.note
