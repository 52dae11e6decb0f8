"""Lists of words, by language."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.clean import Cleaner
from data_pipeline.clean.bad_words import Phrases
from data_pipeline.clean.view import View
from data_pipeline.errors import DataError
from tests.data_pipeline.clean.steps import reason, settings

LISTED = "a listed word"


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("Free PORN here", "en", LISTED),
        ("a sex-video of", "en", LISTED),
        ("Scunthorpe, pornography law, sextet and videos", "en", None),
        ("Strap on your boots: a first-hand job report on the MILF of Mindanao", "en", None),
        ("人口爆炸，出口爆发式增长，红颜射手，预约炮兵；或傳淫蕩歸不得，积芦灰以止淫水", "zh", None),
        ("我们有成人电影可以看", "zh", LISTED),
        ("这是成人的电影", "zh", None),
        ("Free porn here", "zh", None),
        ("我们有成人电影可以看", None, LISTED),
        ("Free porn here", None, LISTED),
        ("Free porn here", "de", None),
    ],
)
def test_our_own_lists(text, language, expected):
    assert reason(text, "bad_words", language) == expected


def test_a_list_of_ones_own(tmp_path):
    english, german = tmp_path / "en.txt", tmp_path / "de.txt"
    english.write_text("\ufeffHeck\nOh  my\n\n", encoding="utf-8")
    german.write_text("Ärger\n")
    told = {"files": {"en": str(english), "de": str(german)}}
    assert reason("What the heck?", "bad_words", "en", **told) == LISTED
    assert reason("oh my!", "bad_words", "en", **told) == LISTED
    assert reason("oh, dear my", "bad_words", "en", **told) is None
    assert reason("porn", "bad_words", "en", **told) is None  # the list is instead of ours
    assert reason("Viel ÄRGER.", "bad_words", "de", **told) == LISTED
    assert settings("bad_words", **told).fingerprint() != settings("bad_words").fingerprint() == ""
    before = settings("bad_words", **told).fingerprint()
    german.write_text("Zorn\n")
    assert settings("bad_words", **told).fingerprint() != before


@pytest.mark.parametrize("content", [None, b"", b" \n\n", b"\xff\xfe\xfa"])
def test_a_file_that_is_no_list(tmp_path, content):
    path = tmp_path / "words.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"words\.txt"):
        Cleaner([settings("bad_words", files={"en": str(path)})])


WORDS = st.lists(st.sampled_from(["ab", "abc", "x", "中", "国", "中国", "a1"]), min_size=1, max_size=4)


@given(
    WORDS.map(" ".join),
    st.lists(st.sampled_from(["ab", "abc", "x", "a1", " ", "中", "国", "-", "ab x"]), max_size=9).map("".join),
)
def test_phrases_are_found_where_a_pattern_finds_them(phrase, text):
    units = re.findall(r"[a-z0-9]+|[中国]", phrase)
    gaps = re.split(r"[a-z0-9]+|[中国]", phrase)[1:-1]
    pattern = "".join(unit + (r"[^a-z0-9中国]+" if gap else "") for unit, gap in zip(units, [*gaps, ""], strict=True))
    before = r"(?<![a-z0-9])" if units[0].isascii() else ""
    after = r"(?![a-z0-9])" if units[-1].isascii() else ""
    assert Phrases([phrase]).among(View(text)) == bool(re.search(before + pattern + after, text))
