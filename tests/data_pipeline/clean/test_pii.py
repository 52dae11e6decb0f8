"""Personal data: what is masked, and what only looks like it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.clean.pii_numbers import luhn
from tests.data_pipeline.clean.steps import clean


def masked(text: str, **told) -> str:
    result = clean(text, "pii", **told)
    assert isinstance(result, str)
    return result


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Write to bob.smith+tag@mail.example.co.uk.", "Write to [EMAIL]."),
        ("邮箱bob@example.com谢谢", "邮箱[EMAIL]谢谢"),
        ("<bob@x.org>, 'ann_b@x.org'; to=c%d@x-y.org", "<[EMAIL]>, '[EMAIL]'; to=[EMAIL]"),
        ("a@b.cd@e.fg", "[EMAIL]@e.fg"),
        ("bob@x.org-ann@x.org", "[EMAIL]-[EMAIL]"),
        ("user@host @name a@b..com a@.com @x.org a@b.c1 a@-b.com", None),
        ("x" * 65 + "@example.org", None),
        ("x" * 64 + "@example.org", "[EMAIL]"),
        ("an jürgen@müller.de, user@例え.jp", "an [EMAIL], [EMAIL]"),
        ("почта иван@пример.рф", "почта [EMAIL]"),
        ("邮箱bob@example.com谢谢.cn", "邮箱[EMAIL]谢谢.cn"),
        ("o'brien@example.com, o’brien@example.com", "[EMAIL], [EMAIL]"),
        ("f'bob@x.org' 'bob@x.org' x='o'brien@x.org", "f'[EMAIL]' '[EMAIL]' x='[EMAIL]"),
        ("logo@2x.png foo@bar.PNG app@1.min.js a@b.jpg a@b.svg a@b.css a@b.gif a@b.webp", None),
        ("https://user:pass@example.com/x", "https://[EMAIL]/x"),
        ("https://user:p!a:s!@example.com/x https://a.b:80/c d@x.org", "https://[EMAIL]/x https://a.b:80/c [EMAIL]"),
    ],
)
def test_mail(text, expected):
    assert masked(text) == (expected or text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("DNS 8.8.8.8, 1.1.1.1:53 and 93.184.216.34.", "DNS [IP], [IP]:53 and [IP]."),
        ("地址8.8.8.8的", "地址[IP]的"),
        ("10.0.0.1 192.168.1.1 127.0.0.1 0.0.0.0 255.255.255.255 169.254.1.1", None),
        ("256.1.1.1 1.2.3.4.5 v8.8.8.8 8.8.8.8x 08.8.8.8 8.8.8 1.2.3.4444", None),
        ("at 2001:4860:4860::8888, [2606:4700::1111]:80", "at [IP], [[IP]]:80"),
        ("2001:db8::1 fe80::1 ::1 2024:10:20 std::vector 12:30:2000: x", None),
        ("version 1.2.3.4, Version: 1.2.3.4, v 1.2.3.4, § 1.2.3.4, §1.2.3.4, Section 1.2.3.4, 版本1.2.3.4", None),
        ("server 8.8.8.8", "server [IP]"),
        ("ends 2a00:1450:4001:81b:0:0:0:200e: yes", "ends [IP]: yes"),
    ],
)
def test_public_addresses_of_machines(text, expected):
    assert masked(text) == (expected or text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("4111 1111 1111 1111", "[CARD]"),
        ("4111-1111-1111-1111, 4111111111111111.", "[CARD], [CARD]."),
        ("卡号6222021234567890128。", "卡号[CARD]。"),
        ("3782 822463 10005 and 378282246310005", "[CARD] and [CARD]"),
        ("2223003122003222 5555555555554444 6011000990139424", "[CARD] [CARD] [CARD]"),
        ("4111 1111 1111 1112 4111111111111112", None),  # wrong check digit
        ("4111 1111-1111 1111", None),  # separators of two kinds
        (
            "1200 4111 1111 1111 1111, 4111 1111 1111 1111 1200 and 378282 1005 3782 822463 10005",
            None,
        ),  # rows of numbers
        ("No 1 4111 1111 1111 1111 12/29", "No 1 [CARD] 12/29"),
        ("0000 0000 0000 0000", None),
        ("1700000000000 9999999999999995", None),  # no card begins so
        ("x4111111111111111 4111111111111111x 0.4111111111111111", None),
    ],
)
def test_cards(text, expected):
    assert masked(text) == (expected or text)


def test_every_wrong_check_digit_is_told():
    rng = random.Random(3)
    for _ in range(200):
        body = [4, *(rng.randrange(10) for _ in range(14))]
        right = [digit for digit in range(10) if luhn([*body, digit])]
        assert len(right) == 1
        for digit in range(10):
            number = "".join(map(str, [*body, digit]))
            assert (masked(f"no {number} !", phone=None) == "no [CARD] !") == (digit == right[0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Call +1 (555) 123-4567 or +49 30 901820.", "Call [PHONE] or [PHONE]."),
        ("(415) 555-2671, 415-555-2671, 415.555.2671, 1-415-555-2671", "[PHONE], [PHONE], [PHONE], [PHONE]"),
        ("手机13800138000，或 138-0013-8000", "手机[PHONE]，或 [PHONE]"),
        ("电话 010-65529988 或 (0755) 26991234", "电话 [PHONE] 或 [PHONE]"),
        ("电话（010）62345678、0571－88888888、（１３８）", "电话[PHONE]、[PHONE]、（１３８）"),
        ("手机１３８００１３８０００，＋８６　＋８６ 138 0013 8000", "手机[PHONE]，＋８６　[PHONE]"),
        ("(13800138000) （13800138000） (415-555-2671)", "([PHONE]) （[PHONE]） ([PHONE])"),
        ("call 212 555 0187, 1 212 555 0187.", "call [PHONE], [PHONE]."),
        ("+33 1 23 45 67 89, +7 9 12 345 67 89, +14155552671", "[PHONE], [PHONE], [PHONE]"),
        ("x = +1234567890; +1 2 3 4 5 6 7 8 9; +2 3 4 5 6 7 8 9 1", None),
        ("200 212 555 0187, 212 555 0187 300, 212 555 0187.5, 292 555 0187", None),
        ("2024-01-15 10:30:00, 1700000000, 12345678901, 20230115", None),
        ("123 456 7890 and 100-200-3000 and 1.234.567.890", None),
        ("0x13800138000 a13800138000 138001380001", None),
        ("pages 100-200, 3.14159265358979, 13800138000.5", None),
    ],
)
def test_phones(text, expected):
    assert masked(text) == (expected or text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("身份证11010519491231002X。", "身份证[ID]。"),
        ("440524188001010014", "[ID]"),
        ("110105194912310021 11010519491331002X", None),
        ("DE89 3704 0044 0532 0130 00, GB82WEST12345698765432.", "[IBAN], [IBAN]."),
        ("DE88 3704 0044 0532 0130 00 XX00 1234 5678 9012", None),
    ],
)
def test_numbers_with_other_check_digits(text, expected):
    assert masked(text, phone=None) == (expected or text)


def test_chinese_ids_for_every_check_character():
    rng = random.Random(4)
    weights = [2 ** (17 - place) % 11 for place in range(17)]
    seen = set()
    for _ in range(200):
        body = f"110105{rng.randrange(1900, 2020)}0{rng.randrange(1, 10)}1{rng.randrange(10)}{rng.randrange(1000):03}"
        total = sum(weight * int(digit) for weight, digit in zip(weights, body, strict=True))
        right = next(check for check in range(11) if (total + check) % 11 == 1)
        for check, character in enumerate("0123456789X"):
            masks = masked(f"id {body}{character}", card=None, phone=None) == "id [ID]"
            assert masks == (check == right)
        seen.add(right)
    assert len(seen) == 11


def test_each_kind_has_its_own_placeholder_and_switch():
    text = "bob@x.org 8.8.8.8 4111111111111111 +1 555 123 4567 DE89370400440532013000 11010519491231002X"
    kinds = ["mail", "ip", "card", "phone", "iban", "chinese_id"]
    words = text.split(" ")
    words = [*words[:3], " ".join(words[3:7]), *words[7:]]
    for kind, word in zip(kinds, words, strict=True):
        only = masked(text, **{other: "<X>" if other == kind else None for other in kinds})
        assert only == text.replace(word, "<X>")
        assert word in masked(text, **{kind: None})
    assert masked("a@b.org", mail="email@example.com") == "email@example.com"


def test_clean_text_is_the_very_same():
    text = "No data of anybody, only 12 words and the year 2024."
    assert masked(text) is text


MAILS = ("bob@x.org", "x@", "@", "a")
NUMBERS = ("4111111111111111", "4111-1111-1111-1111", "415-555-2671", "+49 30 901820", "13800138000", "138 0013 8000")
OTHERS = (
    "8.8.8.8",
    "2001:4860::8888",
    "DE89370400440532013000",
    "11010519491231002X",
    "1",
    "555",
    "中",
    *" -.()/:'（－）１",
    "+1",
    "://",
)
PIECES = st.sampled_from(MAILS + NUMBERS + OTHERS)


@given(st.lists(PIECES, max_size=12).map("".join))
def test_masking_twice_is_masking_once(text):
    once = masked(f"x {text}")
    assert masked(once) == once


@given(st.text(st.characters(blacklist_categories=("Nd",), blacklist_characters="@"), max_size=40))
def test_text_without_digits_and_at_signs_stays(text):
    assert clean("x" + text, "pii") == "x" + text
