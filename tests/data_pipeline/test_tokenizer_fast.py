"""The fast encoder gives the reference's ids, and is found out where it does not."""

import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.tokenizer import FastEncoderDiffers, Tokenizer, with_fallback
from data_pipeline.tokenizer.encoders import FastEncoder, HuggingFaceEncoder
from data_pipeline.tokenizer.fast import IDS_FOR_EACH_SAMPLE, Apart, CheckedEncoder, _sampled, watched
from tests.data_pipeline.hostile import SPECIALS, hostile_texts
from tests.data_pipeline.trained import json_of, sample_texts, saved


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved("byte_bpe", tmp_path_factory.mktemp("byte_bpe"))


@pytest.fixture(scope="module")
def json_bytes(folder: Path) -> bytes:
    return (folder / "tokenizer.json").read_bytes()


def many_texts(count: int) -> list[str]:
    """Texts of 50 words, each another one."""
    draw, words = random.Random(0), " ".join(sample_texts(20, 5)).split()
    return [" ".join(draw.choices(words, k=50)) for _ in range(count)]


def with_a_fault(folder: Path) -> tuple[bytes, str]:
    """The tokenizer without the last merge of a long word: it encodes that word otherwise, and little else."""
    content = json_of(folder)
    joined = ["".join(pair) for pair in content["model"]["merges"]]
    word = next(word for word in reversed(joined) if re.fullmatch("Ġ[a-z]{6,}", word))
    del content["model"]["merges"][joined.index(word)]
    return json.dumps(content).encode(), word[1:]


@pytest.mark.parametrize("kind", ["byte_bpe", "sentencepiece_bpe"])
def test_the_fast_encoder_gives_the_ids_of_the_reference(kind, tmp_path: Path):
    saved(kind, tmp_path)
    fast, reference = Tokenizer.load(tmp_path, fast=True), Tokenizer.load(tmp_path)
    assert fast.encoder == "fastokens" and not fast.note
    assert reference.encoder == ("tokenizers" if kind == "byte_bpe" else "sentencepiece")
    texts = [*hostile_texts(3000, seed=1), *sample_texts(), *SPECIALS, "", " "]
    found, expected = fast.encode_flat(texts), reference.encode_flat(texts)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_array_equal(found.lengths, expected.lengths)
    assert found.ids.dtype == np.int32 and len(found.lengths) == len(texts)


@pytest.mark.parametrize(("kind", "why"), [("wordpiece", "fastokens"), ("sentencepiece_unigram", "only sentencepiece")])
def test_where_it_does_not_apply_the_reference_works_and_says_so(kind, why: str, tmp_path: Path):
    tokenizer = Tokenizer.load(saved(kind, tmp_path), fast=True)
    assert why in tokenizer.note and tokenizer.encoder != "fastokens"
    assert len(tokenizer.encode_batch(["one text"])[0])


def test_a_difference_on_the_probe_is_told_and_the_reference_used(folder: Path, json_bytes: bytes):
    other = json_of(folder)
    other["model"]["merges"] = other["model"]["merges"][:50]
    encoder, note = watched(json.dumps(other).encode(), HuggingFaceEncoder(json_bytes), [])
    assert isinstance(encoder, HuggingFaceEncoder)
    assert "fastokens encodes" in note and "otherwise than tokenizers" in note


def test_a_difference_while_running_stops_the_work(folder: Path, json_bytes: bytes):
    """The probe does not know this word; among enough documents one of the sample has it."""
    faulty, word = with_a_fault(folder)
    encoder, note = watched(faulty, HuggingFaceEncoder(json_bytes), [])
    assert isinstance(encoder, CheckedEncoder) and not note
    texts = [f"{text} and the {word}" for text in many_texts(60_000)]
    with pytest.raises(FastEncoderDiffers, match=rf"{word}.*otherwise than tokenizers.*not to be trusted") as error:
        for start in range(0, len(texts), 1000):
            encoder.encode(texts[start : start + 1000])
    assert isinstance(error.value, DataError)
    right = CheckedEncoder(FastEncoder(json_bytes), HuggingFaceEncoder(json_bytes))
    assert len(right.encode(texts).lengths) == len(texts)


def test_the_sample_depends_on_the_texts_alone(json_bytes: bytes):
    encoder = FastEncoder(json_bytes)
    texts = many_texts(60_000)
    everything = encoder.encode(texts)
    expected = {texts[index] for index, _ in _sampled(everything)}
    found = {
        texts[start + index]
        for start in range(0, len(texts), 997)
        for index, _ in _sampled(encoder.encode(texts[start : start + 997]))
    }
    assert found == expected
    wanted = len(everything.ids) / IDS_FOR_EACH_SAMPLE
    assert wanted / 2 < len(expected) < 2 * wanted


def test_the_fallback_repeats_the_work_and_says_so(capsys: pytest.CaptureFixture[str]):
    def work(fast: bool) -> str:
        if fast:
            raise FastEncoderDiffers("fastokens encodes 'x' otherwise than tokenizers.")
        return "done with the reference"

    assert with_fallback(work) == "done with the reference"
    assert "Beginning again with the reference encoder" in capsys.readouterr().err


def test_texts_set_apart_go_to_the_reference_in_their_places(json_bytes: bytes, folder: Path):
    faulty, word = with_a_fault(folder)
    fast, reference = FastEncoder(faulty), HuggingFaceEncoder(json_bytes)
    texts = ["a", f"the {word}", "b c", "", f" {word} {word}", "d"]
    assert fast.encode(texts).ids.tolist() != reference.encode(texts).ids.tolist()
    flat = Apart(fast, reference, [word, "else"]).encode(texts)
    expected = reference.encode(texts)
    assert flat.ids.tolist() == expected.ids.tolist() and flat.lengths.tolist() == expected.lengths.tolist()
    assert Apart(fast, reference, [word]).encode(texts[1:2]).ids.tolist() == reference.encode(texts[1:2]).ids.tolist()


def test_a_lone_surrogate_is_encoded_as_the_replacement_character(folder: Path):
    for fast in (True, False):
        tokenizer = Tokenizer.load(folder, fast=fast)
        one, other = tokenizer.encode_batch(["a \ud800 b", "a \ufffd b"])
        assert one.tolist() == other.tolist()


def test_one_thread_is_one_thread(folder: Path):
    code = (
        "import os, sys, threading; from data_pipeline.tokenizer import Tokenizer;"
        "t = Tokenizer.load(sys.argv[1], fast=True); t.encode_flat(['some words ' * 50_000] * 8);"
        "print([open(f'/proc/self/task/{i}/comm').read().strip() for i in os.listdir('/proc/self/task')])"
    )
    from data_pipeline.tokenizer.encoders import ONE_THREAD

    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, env={**os.environ, **ONE_THREAD}, capture_output=True, text=True, check=True)
    assert "fastokens" not in done.stdout
