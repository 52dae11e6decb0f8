"""No text takes any step more than a time that is about linear, or a traceback."""

import functools
import random
import time

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from data_pipeline.clean import Cleaner
from tests.data_pipeline.clean.steps import document, settings
from tests.data_pipeline.clean.test_cleaner import STEPS

TOLD = {"length": {"min_units": 1}, "html": {"always": True}, "whitespace": {"collapse_spaces": True}}
SIZE = 100_000
PIECES = (
    *("a", "@", "a@", "a@b.", "x@y.zz", "1 ", "1-", "(1", "+1", "1.", ":", "2:", "2001:", "DE89 ", "4111 "),
    *("11010519491231002X", "http://a.b/c?d=e ", "<", "<div>", "<div><p>x", "<a href=", "<!--", "&amp;"),
    *(" ", " \t", "\n", "\r", ". ", "...", "-", "#", "=", "{", "[1]", "\x80", "\x1b[", "\x00", "\ud800"),
    *("\u0301", "\u0316\u0300", "\u200b", "\u00ad", "\U00020000", "中", "中，", "の", "ก", "操", "é", "é "),
    *("Ã", "Ã ", "Ã©", "Â Â", "â€™", "the ", "be", "A", "A ", "word word ", "javascript ", "lorem ipsum "),
)


@pytest.mark.parametrize("step", STEPS)
def test_the_time_for_hostile_text_is_about_linear(step):
    cleaner = Cleaner([settings(step, **TOLD.get(step, {}))])
    for piece in PIECES:
        text = piece * (SIZE // len(piece))
        for hostile in (text, f"{text}\x01é!", f"Some words first. {text}"):
            began = time.process_time()
            cleaner(document(hostile))
            # The slowest that is allowed is 50 kB/s; what is quadratic takes minutes.
            assert time.process_time() - began < 2, f"{piece!r} repeated"


@pytest.mark.parametrize("step", STEPS)
def test_a_large_document_of_one_line(step):
    rng = random.Random(5)
    text = " ".join(rng.choices(["alpha", "beta", "gamma", "42", "8.8.8.8", "a@b.org", "don't", "—"], k=400_000))
    began = time.process_time()
    Cleaner([settings(step, **TOLD.get(step, {}))])(document(text))
    assert time.process_time() - began < 20


@given(
    st.text(
        st.one_of(
            st.sampled_from("@.:-+()[]{}<>/#&;'\"0123456789abcXDE \n\r\t中の\ud800\udfff\u0301\u200b\x00Ãâ€"),
            st.characters(),
        ),
        max_size=120,
    )
)
@hypothesis_settings(max_examples=200)
def test_no_text_is_too_odd_for_any_step(text):
    for cleaner in _cleaners():
        cleaner(document(text))


@functools.cache
def _cleaners() -> list[Cleaner]:
    return [Cleaner([settings(step, **TOLD.get(step, {}))]) for step in STEPS]
