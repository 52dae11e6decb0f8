"""Steps that mend the text: HTML, encoding, Unicode, control characters, white space."""

import unicodedata

import pytest
from ftfy import fix_encoding
from hypothesis import example, given
from hypothesis import strategies as st

from data_pipeline.clean import Cleaner, Rejected
from data_pipeline.clean.encoding import gate
from data_pipeline.read import read_documents
from tests.data_pipeline.clean.steps import clean, document, reason, settings
from tests.data_pipeline.read_samples import warc_record

ODD = st.text(
    st.one_of(
        st.sampled_from(
            " \t\r\n\x00\x07\x1b[31m\x85\xa0\u200b\u200d\u2028\u3000\ufeff\ufb01\ud800\udc00é\u0301\u0316中"
        ),
        st.characters(),
    ),
    max_size=30,
)


@pytest.mark.parametrize(
    "told",
    [
        {"step": "whitespace"},
        {"step": "whitespace", "collapse_spaces": True, "max_blank_lines": 0},
        {"step": "control"},
        {"step": "control", "private_use": True, "zero_width": False},
        {"step": "unicode"},
        {"step": "unicode", "form": "NFKC"},
    ],
    ids=str,
)
@given(text=ODD)
@example(text="a" + "\u0344" * 40)
@example(text="\x1b\x1b[0m[0m")
def test_doing_it_twice_is_doing_it_once(told, text):
    once = clean(text, **told)
    assert isinstance(once, Rejected) or clean(once, **told) == once


@given(ODD)
def test_white_space_is_all_that_the_step_takes(text):
    after = clean(text, "whitespace", collapse_spaces=True)
    after = "" if isinstance(after, Rejected) else after
    assert "".join(after.split()) == "".join(text.split())


def test_white_space():
    assert clean("a  b \r\nc\t\r\r\r\n\n\n d\u2028e\x0cf\n\n", "whitespace") == "a  b\nc\n\n d\ne\nf"
    assert clean("\n\n  a\u3000\u3000b\t\tc \n\n\nd", "whitespace", collapse_spaces=True) == "a b c\n\nd"
    assert clean("a\n\n\n\nb", "whitespace", max_blank_lines=2) == "a\n\n\nb"
    assert clean("a\n\n\n\nb", "whitespace", max_blank_lines=0) == "a\nb"
    assert clean("  if x:\n\treturn", "whitespace") == "  if x:\n\treturn"


def test_control_characters():
    text = "\ufeffa\x00b\x1b[31;1mred\x1b[0m\x7f c\u200bd\u00ade\u202ef\u200dg\ue000\tx\n"
    assert clean(text, "control") == "abred cdef\u200dg\ue000\tx\n"
    assert clean(text, "control", private_use=True) == "abred cdef\u200dg\tx\n"
    assert clean("a\u200bb\x01", "control", zero_width=False) == "a\u200bb"
    assert clean("\x1b]0;title\x07a\x1b]8;;x:y\x1b\\b\x1b(B \x1b]c\nd\x07", "control") == "ab ]c\nd"
    assert clean("a\ud800b", "control") == "a\ufffdb"
    assert clean("👩\u200d🔬 می\u200cخواهم", "control") == "👩\u200d🔬 می\u200cخواهم"


def test_unicode_forms():
    assert clean("e\u0301 ２，ﬁ", "unicode") == "é ２，ﬁ"
    assert clean("e\u0301 ２，ﬁ", "unicode", form="NFKC") == "é 2,fi"
    heap = clean("a" + "\u0316\u0300" * 10_000 + "b", "unicode")
    assert isinstance(heap, str) and len(heap) < 35 and heap.endswith("b") and unicodedata.is_normalized("NFC", heap)


@pytest.mark.parametrize("text", ["voilà l’été", "你好，世界", "Привет, мир! Как дела?"])
@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "cp1251", "cp437"])
def test_text_read_in_a_wrong_encoding_is_repaired(text, encoding):
    page = f"A clean line, été.\n{text.encode().decode(encoding)}\nAnother one."
    assert clean(page, "encoding") == f"A clean line, été.\n{text}\nAnother one."


def test_a_line_break_of_unicode_may_be_a_part_of_what_was_misread():
    assert clean("Ångström".encode().decode("latin-1"), "encoding") == "Ångström"


def test_what_is_right_stays():
    for text in ("Ça va, l’été ? « déjà vu » — où ?", "«Привет», — сказал он…", "你好，世界。", "Ångström", "─│┌"):
        assert clean(text, "encoding") == text


@given(
    st.text(st.sampled_from("aé中ñ«’“—€😀Ã ß.ü"), min_size=1, max_size=12),
    st.lists(
        st.sampled_from(["latin-1", "cp1252", "cp1250", "cp1254", "cp1257", "iso-8859-2", "mac-roman", "cp437"]),
        max_size=2,
    ),
)
def test_the_gate_misses_nothing_that_would_be_repaired(text, encodings):
    for encoding in encodings:
        text = text.encode().decode(encoding, "ignore")
    if "\n" not in text and fix_encoding(text) != text:
        assert gate().search(text)


PAGE = """<!DOCTYPE html><html><head><title>T</title><script>var x = 1;</script></head><body>
<nav><a href="/">Home</a> <a href="/a">About</a></nav>
<article><h1>Whales</h1><p>The whale is a large animal of the sea, and it sings.</p>
<p>It eats small animals, of which there are many in cold water.</p></article>
<footer>Copyright by nobody. Cookies.</footer></body></html>"""


def test_main_text_of_a_page():
    text = clean(PAGE, "html")
    assert isinstance(text, str)
    assert "The whale is a large animal" in text and "small animals" in text
    assert "var x" not in text and "About" not in text and "Copyright" not in text and "<" not in text
    whole = clean(PAGE, "html", main_content=False)
    assert isinstance(whole, str) and "About" in whole and "var x" not in whole


@pytest.mark.parametrize(
    "page",
    [
        "\ufeff\n<?xml version='1.0'?>\n<html><body><p>Some text of it.</p></body></html>",
        "<!-- made by hand -->\n<HTML lang=en><body><p>Some text of it.</p></body></HTML>",
        "<div class=x><p>Some text of it.</p></div>",
    ],
)
def test_what_begins_like_a_page_is_one(page):
    assert clean(page, "html") == "Some text of it."


@pytest.mark.parametrize(
    "text", ["Use <div> and </div> here.", "a < b and c > d", "<3 you </3", "#include <stdio.h>", "x"]
)
def test_other_text_is_left_alone(text):
    assert clean(text, "html") == text


def test_files_of_pages_are_html_whatever_they_begin_with(tmp_path):
    fragment = "Hello <b>you</b> there"
    cleaner = Cleaner([settings("html")])
    assert cleaner(document(fragment)) == document(fragment)
    (tmp_path / "a.warc").write_bytes(warc_record(0, fragment.encode()))
    (tmp_path / "b.HTM").write_text(fragment)
    for path in tmp_path.iterdir():
        (page,) = read_documents([path])
        assert cleaner(page).text == "Hello you there"
    (tmp_path / "a.warc").write_bytes(warc_record(0, b"if a <b:\n  c", content_type="text/plain"))
    (plain,) = read_documents([tmp_path / "a.warc"])
    assert cleaner(plain).text == "if a <b:\n  c"
    assert clean(fragment, "html", always=True) == "Hello you there"
    assert reason("<html><body><script>x()</script></body></html>", "html") == "empty"
    assert clean("<html><body><p>half \ud800 pair</p></body></html>", "html") == "half ? pair"
