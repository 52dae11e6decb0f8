"""Long texts: in parts, with the ids of the whole, in linear time and bounded memory."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.tokenizer import Tokenizer
from data_pipeline.tokenizer.encoders import SentencePieceEncoder
from data_pipeline.tokenizer.long_texts import LongTexts
from tests.data_pipeline.trained import KINDS, sample_texts, saved, small_tokenizer


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_have_the_ids_of_the_whole(kind, monkeypatch: pytest.MonkeyPatch):
    tokenizer = small_tokenizer(kind)
    verse = "\n".join(line for text in sample_texts(0, 20) for line in text.splitlines() if 0 < len(line) < 300)
    text = "\n\n".join(sample_texts(20, 0)) + " a  b \n" * 300 + verse + "\n1 " * 200
    (whole,) = tokenizer.encode_batch([text])
    for longest in (1000, 777, 5000):
        monkeypatch.setattr("data_pipeline.tokenizer.long_texts.LONGEST", longest)
        flat = tokenizer.encode_flat(["short", text, "", text[:2000]])
        assert flat.lengths[1] == len(whole) and flat.lengths[2] == 0
        np.testing.assert_array_equal(flat.split()[1], whole)


def test_an_encoder_that_begins_with_a_space_is_cut_at_spaces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """Llama 2 and Mistral 7B put a space before each text: the one at the cut is left to them."""
    import io

    import sentencepiece

    model = io.BytesIO()
    texts = [line for text in sample_texts(40, 0) for line in text.split("\n")]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_writer=model, model_type="bpe", vocab_size=800, minloglevel=2,
        byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, num_threads=1,
    )  # fmt: skip
    path = tmp_path / "some.model"
    path.write_bytes(model.getvalue())
    text = " ".join(texts) + "。\n" + "子曰：「學而時習之。」\n" * 200
    for fast in (True, False):
        tokenizer = Tokenizer.load(path, fast=fast)
        (whole,) = tokenizer.encode_batch([text])
        with monkeypatch.context() as patch:
            patch.setattr("data_pipeline.tokenizer.long_texts.LONGEST", 500)
            np.testing.assert_array_equal(tokenizer.encode_batch([text, "the end"])[0], whole)
    np.testing.assert_array_equal(whole, SentencePieceEncoder(model.getvalue()).encode([text]).ids)


def test_without_a_place_to_cut_the_text_is_still_all_there(monkeypatch: pytest.MonkeyPatch):
    tokenizer = small_tokenizer("byte_bpe")
    monkeypatch.setattr("data_pipeline.tokenizer.long_texts.LONGEST", 1000)
    for text in ("a" * 5001, "。" * 3000, " " * 2500, "a" * 999 + " " * 1001):
        (ids,) = tokenizer.encode_batch([text])
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize("kind", KINDS)
def test_no_text_takes_more_than_linear_time(kind):
    """Eight times the text: about eight times the time, where the cuts are and where there is no place for one."""
    encoder = LongTexts(small_tokenizer(kind)._reference)
    for unit in ("a", "ab ", "\n", "的"):
        times = []
        for length in (1 << 15, 1 << 18):
            text = (unit * length)[:length]
            start = time.process_time()
            encoder.encode([text])
            times.append(time.process_time() - start)
        assert times[1] < 30 * max(times[0], 0.005), unit


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_hundred_megabytes_without_a_space(kind, tmp_path: Path):
    """A minute each: pytest -m slow tests/data_pipeline/test_tokenizer_long.py. Memory stays under 1.5 GB."""
    code = (
        "import resource, sys; from data_pipeline.tokenizer import Tokenizer;"
        "t = Tokenizer.load(sys.argv[1], fast=True); n = len(t.encode_flat(['abcdefghij' * 10_000_000]).ids);"
        "print(n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    command = [sys.executable, "-c", code, str(saved(kind, tmp_path))]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    tokens, megabytes = map(int, done.stdout.split())
    assert tokens > 90 and megabytes < 1500
