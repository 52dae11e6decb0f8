"""What a unit is."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.units import HAN, MARK, UPPERCASE, categories_of, codepoints_of, fold, unit_hashes, unit_starts_ends

TEXTS = st.text(st.sampled_from("aB9 _.-'\n\u0301\u00ad\u200d中かภ한नй\ud800\U00020000"), max_size=40)


def units(text: str) -> list[str]:
    starts, ends = unit_starts_ends(codepoints_of(text))
    return [text[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)]


def hashes(text: str) -> list[int]:
    codepoints = codepoints_of(text)
    return unit_hashes(codepoints, *unit_starts_ends(codepoints)).tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \n.,!", []),
        ("don't x_1", ["don", "t", "x", "1"]),
        ("2024年中文", ["2024", "年", "中", "文"]),
        ("かな漢字カナー", list("かな漢字カナー")),
        ("한국어 글", ["한국어", "글"]),
        ("नमस्ते दुनिया", ["नमस्ते", "दुनिया"]),
        ("ภาษา", ["ภ", "า", "ษ", "า"]),
        ("cafe\u0301 中\u0301b", ["cafe\u0301", "中\u0301", "b"]),
        ("\u0301a", ["a"]),
        ("co\u00adoperate", ["co\u00adoperate"]),
        ("𠀀𠀁x", ["𠀀", "𠀁", "x"]),
        ("a\ud800b", ["a", "b"]),
    ],
)
def test_units_of_a_text(text, expected):
    assert units(text) == expected


@given(TEXTS)
def test_the_definition_character_by_character(text):
    expected, open_word, after_single = [], False, False
    for character in text:
        kind = int(categories_of(codepoints_of(character))[0])
        if MARK <= kind < UPPERCASE:
            if expected and (open_word or after_single):
                expected[-1] += character
            continue
        if kind < UPPERCASE:
            open_word = after_single = False
        elif kind >= HAN:
            expected.append(character)
            open_word, after_single = False, True
        elif open_word:
            expected[-1] += character
        else:
            expected.append(character)
            open_word, after_single = True, False
    assert units(text) == expected


@given(TEXTS, TEXTS)
def test_the_same_unit_has_the_same_hash_anywhere(left, right):
    both = f"{left} {right}"
    assert hashes(both) == hashes(left) + hashes(right)
    of_unit = dict(zip(units(both), hashes(both), strict=True))
    assert len(set(of_unit.values())) == len(of_unit)


def test_a_unit_longer_than_a_piece_and_units_on_every_side_of_the_border():
    long = "x" * 70_000
    assert hashes(f"ab {long} cd") == [*hashes("ab"), *hashes(long), *hashes("cd")]
    assert hashes(long) != hashes(long + "x")
    words = [f"w{number}" for number in range(40_000)]
    assert len(set(hashes(" ".join(words)))) == len(words)


def test_folding_keeps_places():
    text = "ÀbÇ ΣΑΣ Ǆ İ 中"
    folded = "".join(map(chr, fold(codepoints_of(text)).tolist()))
    assert folded == "àbç σασ ǆ İ 中"


def test_categories_cover_all_of_unicode():
    kinds = categories_of(np.arange(0x110000, dtype=np.uint32))
    for code in range(0, 0x30000, 7):
        letter = unicodedata.category(chr(code))[0] in "LN"
        if unicodedata.category(chr(code)) != "Cn":
            assert (kinds[code] >= UPPERCASE) == letter or kinds[code] == HAN, hex(code)
