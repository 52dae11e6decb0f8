"""Where a text has phone numbers, card numbers, account numbers and identity numbers."""

import re
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from data_pipeline.units import Codepoints

Span = tuple[int, int]
Places = NDArray[np.int64]

_GAP = 2
"""Most characters between two runs of digits of one number, as in (555) 123."""
_SEPARATORS = np.zeros(128, bool)
_SEPARATORS[list(b" .-()+")] = True
_SHORTEST = 9
"""Fewest digits in a number that is looked for."""
_WIDE_FIRST, _WIDE_LAST = ord("（"), ord("９")

_CARD = re.compile(
    r"(?:(?<!\d{4} )(?:\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{5})(?! \d{4})"  # no row of numbers
    r"|\d{13,19})(?![A-Za-z0-9]|[.-]\d)"
)
_CHINESE_ID = re.compile(
    r"[1-9]\d{5}(?:18|19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[0-9Xx](?![A-Za-z0-9])"
)
_WEIGHTS = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_PHONE = re.compile(
    r"(?:\+1[ .-]?\(?[2-9]\d\d\)?[ .-]{0,2}\d{3}[ .-]?\d{4}"  # international, North America
    r"|\+(?!\d(?:[ .-]\d){3}(?!\d))[2-9](?:[ .()-]{0,2}\d){7,14}"  # international (E.164: at most 15 digits)
    r"|(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[.-])[2-9]\d\d[ .-]\d{4}"  # North America
    r"|(?<!\d )(?:1 )?[2-9][0-8]\d [2-9]\d\d \d{4}(?! ?\d|[.,]\d)"  # the same with spaces, when no row of numbers
    r"|1[3-9]\d([ -]?)\d{4}\1\d{4}"  # China, mobile
    r"|\(?0\d{2,3}(?:\) ?|[ -])\d{7,8}"  # China, fixed line
    r")(?![A-Za-z0-9]|\.\d)"
)
_IBAN = re.compile(r"[A-Z]{2}\d\d(?: ?[A-Z0-9]){11,30}")
_IBAN_LENGTHS = {
    "AD": 24, "AE": 23, "AT": 20, "BE": 16, "BG": 22, "BR": 29, "CH": 21, "CY": 28, "CZ": 24, "DE": 22, "DK": 18,
    "EE": 20, "ES": 24, "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IS": 26,
    "IT": 27, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MT": 31, "NL": 18, "NO": 15, "PL": 28, "PT": 25,
    "RO": 24, "RS": 22, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TR": 26, "UA": 29,
}  # fmt: skip


def narrow(text: str, codepoints: Codepoints) -> tuple[str, Codepoints]:
    """The text, and its code points, with ASCII for the full-width digits and marks of numbers: （０１０） is (010)."""
    wide = codepoints - np.uint32(_WIDE_FIRST) <= _WIDE_LAST - _WIDE_FIRST
    wide &= codepoints != ord("，")
    if not wide.any():
        return text, codepoints
    codepoints = codepoints - wide * np.uint32(_WIDE_FIRST - ord("("))
    return codepoints.tobytes().decode("utf-32-le", "surrogatepass"), codepoints


def digit_runs(codepoints: Codepoints) -> tuple[Places, Places]:
    """[runs] Where each run of the digits 0 to 9 starts, and [runs] where it ends."""
    digits = np.zeros(len(codepoints) + 2, bool)
    np.less(codepoints - np.uint32(ord("0")), 10, out=digits[1:-1])
    edges = np.flatnonzero(digits[1:] != digits[:-1])
    return edges[::2], edges[1::2]


def candidates(codepoints: Codepoints, starts: Places, ends: Places) -> list[int]:
    """Starts of the runs that could begin a number: as long as one, or with enough digits close behind."""
    lengths = ends - starts
    fresh = np.ones(len(starts), bool)
    near = starts[1:] - ends[:-1] <= _GAP
    fresh[1:] = ~(near & _between(codepoints[ends[:-1]]) & _between(codepoints[starts[1:] - 1]))
    cluster = fresh.cumsum() - 1
    enough = np.bincount(cluster, weights=lengths)[cluster] >= _SHORTEST
    return starts[enough].tolist()


def _between(codepoints: Codepoints) -> NDArray[np.bool_]:
    """Which of the characters may be between the digits of a number."""
    return _SEPARATORS[np.minimum(codepoints, 127)]


def card(text: str, start: int) -> Span | None:
    """A payment card's number that begins here (Visa, Mastercard, American Express, Discover, JCB, UnionPay, ...)."""
    match = _CARD.match(text, start)
    if match is None or not _begins(text, start):
        return None
    digits = [int(character) for character in match[0] if character.isdigit()]
    known = digits[0] in (3, 4, 5, 6) or 2221 <= int("".join(map(str, digits[:4]))) <= 2720
    return match.span() if known and len(set(digits)) > 1 and luhn(digits) else None


def luhn(digits: list[int]) -> bool:
    """Whether the last digit is the check digit of the others (ISO/IEC 7812-1)."""
    doubled = [2 * digit - 9 * (digit > 4) for digit in digits[-2::-2]]
    return (sum(digits[::-2]) + sum(doubled)) % 10 == 0


def chinese_id(text: str, start: int) -> Span | None:
    """A Chinese resident's identity number that begins here (GB 11643)."""
    match = _CHINESE_ID.match(text, start)
    if match is None or not _begins(text, start):
        return None
    total = sum(weight * int(digit) for weight, digit in zip(_WEIGHTS, match[0], strict=False))
    return match.span() if "10X98765432"[total % 11] == match[0][-1].upper() else None


def phone(text: str, start: int) -> Span | None:
    """A phone number whose first digit is here; a + before it is a part of it, and so is a ( that it closes."""
    begin = start - (text[start - 1 : start] in ("+", "("))
    match = _PHONE.match(text, begin)
    if match is None and text[begin] == "(":
        match = _PHONE.match(text, start)
    return match.span() if match and _begins(text, match.start()) else None


def ibans(text: str, codepoints: Codepoints, starts: Places, ends: Places) -> Iterator[Span]:
    """Account numbers: two capitals and two digits, then the length of that country, and a right check."""
    first = starts[(starts >= 2) & (ends - starts >= 2)]
    capitals = (codepoints[first - 1] - np.uint32(65) < 26) & (codepoints[first - 2] - np.uint32(65) < 26)
    for start in (first[capitals] - 2).tolist():
        match = _IBAN.match(text, start)
        length = _IBAN_LENGTHS.get(text[start : start + 2])
        if match is None or length is None or not _begins(text, start):
            continue
        places = [place for place, character in enumerate(match[0]) if character != " "]
        end = start + places[length - 1] + 1 if len(places) >= length else 0
        if end and not _plain(text[end : end + 1]) and _mod97(text[start:end].replace(" ", "")):
            yield start, end


def _mod97(iban: str) -> bool:
    """Whether the check digits are right (ISO 7064 MOD 97-10)."""
    return int("".join(str(int(character, 36)) for character in iban[4:] + iban[:4])) % 97 == 1


def _begins(text: str, start: int) -> bool:
    """Whether this is no middle: no letter or digit is before it, nor a digit with a mark behind it."""
    before = text[max(0, start - 2) : start]
    return not _plain(before[-1:]) and not (before[-1:] in ("-", ".", "/") and before[:1].isdigit())


def _plain(character: str) -> bool:
    return character.isascii() and (character.isalnum() or character == "_")
