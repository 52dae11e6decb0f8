"""The steps as one."""

from time import perf_counter

import pytest
from pydantic import TypeAdapter, ValidationError

from data_pipeline.clean import Cleaner, Rejected, StepSettings
from data_pipeline.config import PrepareConfig
from tests.data_pipeline.clean.steps import clean, document, settings

STEPS = (
    *("html", "encoding", "unicode", "control", "whitespace", "pii", "language", "length", "characters"),
    *("gopher_quality", "repetition", "c4", "fineweb", "chinese", "bad_words"),
)


def test_steps_run_in_the_order_written():
    text = "a\x00\ufb01b  \n"
    assert clean(text, "control") == "a\ufb01b  \n"
    both = Cleaner([settings("unicode", form="NFKC"), settings("control"), settings("whitespace")])
    assert both(document(text)) == document("afib")
    keeps, cuts = settings("length", max_characters=4), settings("whitespace")
    assert isinstance(Cleaner([keeps, cuts])(document("abc   ")), Rejected)
    assert Cleaner([cuts, keeps])(document("abc   ")) == document("abc")


@pytest.mark.parametrize("text", ["", " \n\t ", "\x00\x01", "\u200b"])
def test_a_document_without_text_is_rejected_as_empty(text):
    assert Cleaner([settings("control"), settings("whitespace")])(document(text)) == Rejected("control", "empty")


def test_a_document_passes_a_step_for_other_languages():
    cleaner = Cleaner([settings("length", min_characters=10, languages=["en", "de"])])
    assert cleaner(document("short", "en")) == Rejected("length", "fewer than 10 characters")
    assert cleaner(document("short", "zh")) == document("short", "zh")
    assert cleaner(document("short")) == document("short")


@pytest.mark.parametrize("bounds", [{"characters": (5, 4)}, {"units": (9, 2)}])
def test_bounds_without_room_between_them_are_refused(bounds):
    ((what, (least, most)),) = bounds.items()
    settings("length", **{f"min_{what}": most, f"max_{what}": least})
    with pytest.raises(ValueError, match=f"min_{what}={least} is more than max_{what}={most}"):
        settings("length", **{f"min_{what}": least, f"max_{what}": most})


def test_the_second_step_of_a_kind_has_a_name_of_its_own():
    cleaner = Cleaner([settings("length", min_characters=2), settings("control"), settings("length", max_characters=4)])
    assert cleaner.names == ["length", "control", "length 2"]
    assert cleaner(document("x")) == Rejected("length", "fewer than 2 characters")
    assert cleaner(document("xxxxx")) == Rejected("length 2", "more than 4 characters")


def test_time_is_told_for_each_step():
    cleaner = Cleaner([settings("control"), settings("repetition")])
    began = perf_counter()
    for _ in range(20):
        cleaner(document("some words " * 500))
    assert len(cleaner.seconds) == 2 and min(cleaner.seconds) > 0
    assert sum(cleaner.seconds) <= perf_counter() - began


def test_without_steps_nothing_happens():
    assert Cleaner([])(document("")) == document("")


@pytest.mark.parametrize("step", STEPS)
def test_every_step_survives_the_way_to_another_process(step):
    config = {"out": "out", "sources": [{"kind": "files", "files": ["x"]}], "tokenizer": {"kind": "load", "path": "t"}}
    told = {"length": {"min_units": 3}}.get(step, {})
    before = PrepareConfig.model_validate({**config, "clean": [{"step": step, **told}]})
    after = PrepareConfig.model_validate_json(before.model_dump_json())
    assert after == before
    text = "A sentence, of some words. " * 3
    assert Cleaner(after.clean)(document(text)) == Cleaner(before.clean)(document(text))


def test_a_misspelt_step_or_setting_is_refused():
    from data_pipeline.clean import CleaningStep

    adapter: TypeAdapter[StepSettings] = TypeAdapter(CleaningStep)
    with pytest.raises(ValidationError, match="does not match any of the expected tags"):
        adapter.validate_python({"step": "whitespaces"})
    with pytest.raises(ValidationError, match="Extra inputs"):
        adapter.validate_python({"step": "length", "minimum": 3})
    for bad in ({"min_alphabetic_words": 1.5}, {"min_words": -1}):
        with pytest.raises(ValidationError, match="gopher_quality"):
            adapter.validate_python({"step": "gopher_quality", **bad})
    with pytest.raises(ValidationError):
        adapter.validate_python({"step": "repetition", "max_top_ngram": {1: 0.5}})
