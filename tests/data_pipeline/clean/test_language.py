"""Languages, found without a network."""

import socket

import pytest

from data_pipeline.clean import Cleaner, Rejected
from tests.data_pipeline.clean.steps import document, settings

SENTENCES = {
    "en": "The children were playing in the garden when it began to rain.",
    "de": "Die Kinder spielten im Garten, als es zu regnen anfing.",
    "fr": "Les enfants jouaient dans le jardin quand il a commencé à pleuvoir.",
    "ru": "Дети играли в саду, когда начался дождь.",
    "zh": "孩子们正在花园里玩的时候下起了雨。",
    "ja": "子供たちが庭で遊んでいると、雨が降り始めた。",
    "ko": "아이들이 정원에서 놀고 있을 때 비가 오기 시작했다.",
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("the step uses the network")

    monkeypatch.setattr(socket, "socket", refuse)


@pytest.mark.parametrize("language", SENTENCES)
def test_the_language_is_found_and_set(language):
    cleaner = Cleaner([settings("language")])
    assert cleaner(document(SENTENCES[language])).language == language


def test_only_some_languages_are_kept():
    cleaner = Cleaner([settings("language", keep=["en", "zh"])])
    kept = {name for name, text in SENTENCES.items() if not isinstance(cleaner(document(text)), Rejected)}
    assert kept == {"en", "zh"}
    assert cleaner(document(SENTENCES["de"])) == Rejected("language", "in another language (de)")
    assert cleaner(document("1234 5678 !!")) == Rejected("language", "language uncertain")


def test_what_the_source_says_is_believed():
    cleaner = Cleaner([settings("language", keep=["en"])])
    assert cleaner(document(SENTENCES["de"], "en")) == document(SENTENCES["de"], "en")
    assert cleaner(document(SENTENCES["en"], "de")) == Rejected("language", "in another language (de)")


def test_verse_in_traditional_characters_is_chinese():
    cleaner = Cleaner([settings("language", keep=["zh"])])
    poem = "文天祥\n風煙渺吳蜀，雲帆轉遼海。\n喪亂紛嗷嗷，尚愧微軀在。\n第一百六十五"
    assert cleaner(document(poem)).language == "zh"


def test_only_the_beginning_counts_and_odd_characters_do_no_harm():
    text = SENTENCES["en"] * 3 + SENTENCES["de"] * 50
    assert Cleaner([settings("language", characters=180)])(document(text)).language == "en"
    assert Cleaner([settings("language", characters=180)])(document("今天天气很好。" * 30 + text)).language == "zh"
    assert Cleaner([settings("language")])(document("\ud800 \x00\n" + SENTENCES["fr"])).language == "fr"


def test_later_steps_choose_by_the_language_that_was_found():
    cleaner = Cleaner([settings("language"), settings("length", min_characters=1000, languages=["de"])])
    assert cleaner(document(SENTENCES["de"])) == Rejected("length", "fewer than 1000 characters")
    assert isinstance(cleaner(document(SENTENCES["en"])), type(document("")))
