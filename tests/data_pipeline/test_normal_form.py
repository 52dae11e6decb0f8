"""Unicode normalisation: what it gives, and that it never takes long."""

import json
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.dedup.decontaminate import Decontaminator
from data_pipeline.dedup.normalise import normalised
from data_pipeline.dedup.settings import Decontaminate
from data_pipeline.normal_form import normal_form
from data_pipeline.read import Document

FORMS = ["NFC", "NFKC"]
# Marks out of order; Tibetan vowels that are two marks each; half-width sound marks, which NFKC makes marks.
HEAPS = ["\u0301\u0316", "\u0f73", "\u0f81\u0f75", "\uff9e\u0301", "\u0344\u0316"]
SECONDS = 2.0
"""A heap of this size takes half a minute and more unguarded."""


def seconds_of(function, *arguments) -> float:
    began = time.process_time()
    function(*arguments)
    return time.process_time() - began


@pytest.mark.parametrize("form", FORMS)
@given(text=st.text(max_size=30))
def test_text_without_heaps_gets_what_unicode_says(form, text):
    assert normal_form(form, text) == unicodedata.normalize(form, text)


@pytest.mark.parametrize("form", FORMS)
def test_text_in_the_form_is_the_very_same(form):
    text = "Café, 例え"
    assert normal_form(form, text) is text


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("heap", HEAPS)
def test_heaps_of_marks_take_no_time(form, heap):
    text = "a" + heap * (160_000 // len(heap))
    assert seconds_of(normal_form, form, text) < SECONDS
    assert len(normal_form(form, "a" + "\u0301\u0316" * 100)) <= 31


@pytest.mark.parametrize("form", FORMS)
def test_text_that_is_not_in_the_form_takes_little_longer_than_unicode_needs(form):
    text = "cafe\u0301，例え，" * 200_000
    assert seconds_of(normal_form, form, text) < 0.05 + 4 * seconds_of(unicodedata.normalize, form, text)


def test_heaps_of_marks_hold_up_neither_duplicates_nor_decontamination(tmp_path):
    evaluation = tmp_path / "evaluation.jsonl"
    evaluation.write_text(
        json.dumps({"text": "one two three four five six seven eight nine ten eleven twelve thirteen"})
    )
    check = Decontaminator(Decontaminate(files=[str(evaluation)]))
    text = "a" + "\u0301\u0316" * 80_000
    assert seconds_of(normalised, text) < SECONDS
    assert seconds_of(check, Document(text, "x", 0)) < SECONDS
