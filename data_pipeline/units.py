"""Units: what a corpus counts, compares and hashes where other software says "words".

A unit is a run of letters and digits, with their combining marks, in scripts that put spaces between words (Latin,
Cyrillic, Arabic, Devanagari, Hangul, ...), or one letter, with its marks, of a script that does not: Han, Hiragana,
Katakana, Bopomofo, Thai, Lao, Myanmar, Khmer, Tai, Yi. All else separates units: `don't`, `x_1` and `2024年` are two.
"""

import functools
import unicodedata

import numpy as np
from numpy.typing import NDArray

Codepoints = NDArray[np.uint32]
"""[characters] The characters of a text."""
Categories = NDArray[np.uint8]
"""[characters] One of the numbers below for each character."""

OTHER, CONTROL, INVISIBLE, PRIVATE, SPACE, PUNCTUATION, SYMBOL = range(7)
"""Characters that separate units; OTHER is unassigned or half a surrogate pair, INVISIBLE Unicode's Cf."""
MARK, JOINER = 8, 9
"""Characters that belong to the one before: combining marks, and what is invisible inside words (ZWJ, soft hyphen)."""
UPPERCASE, LOWERCASE, LETTER, DIGIT, NUMBER = range(16, 21)
"""Characters whose runs are units; LETTER has no case, NUMBER is no decimal digit (Ⅷ, ½)."""
HAN, KANA, UNSPACED = range(32, 35)
"""Characters that are units of their own; UNSPACED: of the other scripts without spaces."""
CATEGORIES = 35
"""One more than the greatest of them."""

_GENERAL = {
    "Cc": CONTROL, "Cf": INVISIBLE, "Co": PRIVATE, "Zs": SPACE, "Zl": SPACE, "Zp": SPACE,
    "Pc": PUNCTUATION, "Pd": PUNCTUATION, "Ps": PUNCTUATION, "Pe": PUNCTUATION, "Pi": PUNCTUATION, "Pf": PUNCTUATION,
    "Po": PUNCTUATION, "Sm": SYMBOL, "Sc": SYMBOL, "Sk": SYMBOL, "So": SYMBOL, "Mn": MARK, "Mc": MARK, "Me": MARK,
    "Lu": UPPERCASE, "Lt": UPPERCASE, "Ll": LOWERCASE, "Lm": LETTER, "Lo": LETTER,
    "Nd": DIGIT, "Nl": NUMBER, "No": NUMBER,
}  # fmt: skip
_SPACES = "\t\n\v\f\r\x1c\x1d\x1e\x1f\x85"
_JOINERS = "\u00ad\u200c\u200d\u2060"
# By block: unassigned places of the Han planes count too, so that characters of a newer Unicode are no gaps.
_HAN = ((0x2E80, 0x2FDF), (0x3005, 0x3007), (0x3021, 0x3029), (0x3038, 0x303B), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),
        (0xF900, 0xFAFF), (0x20000, 0x2FFFD), (0x30000, 0x3FFFD))  # fmt: skip
_KANA = ((0x3041, 0x3098), (0x309D, 0x309F), (0x30A1, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F),
         (0x1AFF0, 0x1B16F))  # fmt: skip
_UNSPACED = ((0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF),
             (0x3105, 0x312F), (0x31A0, 0x31BF), (0xA000, 0xA48F), (0xA9E0, 0xA9FF), (0xAA60, 0xAADF))  # fmt: skip
_LAST_ASSIGNED = 0x323B0
"""Above it are only the Han planes, tags, variation selectors and private use."""

_PIECE = 2**16
_BASE = 0x9E3779B97F4A7C15


def codepoints_of(text: str) -> Codepoints:
    """Spread a text into its code points [characters]; half surrogate pairs stay what they are."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def categories_of(codepoints: Codepoints) -> Categories:
    """Give each code point its category."""
    return _table().take(codepoints)


def category_of(character: str) -> int:
    """The category of one character."""
    return int(_table()[ord(character)])


def fold(codepoints: Codepoints) -> Codepoints:
    """Make upper and lower case the same, character by character: as many characters come out, in the same places."""
    return _lower().take(codepoints)


def unit_starts_ends(
    codepoints: Codepoints, categories: Categories | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Find the units: [units] where each starts and [units] where it ends (the place behind its last character)."""
    kinds = categories_of(codepoints) if categories is None else categories
    if not len(kinds):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    marks = (kinds >= MARK) & (kinds < UPPERCASE)
    base = _without_marks(kinds, marks) if marks.any() else kinds
    inside = base >= UPPERCASE
    # A unit starts where it is inside one, and the character before was outside, or either is a unit of its own.
    starts = inside.copy()
    single = base >= HAN
    starts[1:] &= ~inside[:-1] | single[1:] | single[:-1]
    starts &= ~marks
    ends = inside
    ends[:-1] &= ~inside[1:] | starts[1:]
    return np.flatnonzero(starts), np.flatnonzero(ends) + 1


def unit_hashes(codepoints: Codepoints, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Hash each unit to 64 bits [units]: the same characters give the same hash, wherever they stand.

    A polynomial modulo 2^64 by prefix sums, then a finalizer (SplitMix64's). Of a unit longer than 65,536 characters
    its beginning and its length count.
    """
    if len(starts) == int((ends - starts).sum()):  # all of one character: the same value, by a shorter way
        return finalize(codepoints[starts].astype(np.uint64) + np.uint64(1))
    hashes = np.empty(len(starts), np.uint64)
    first = 0
    while first < len(starts):
        begin = int(starts[first])
        after = max(first + 1, int(np.searchsorted(ends, begin + _PIECE, "right")))
        piece = codepoints[begin : begin + _PIECE]
        hashes[first:after] = _hash_piece(piece, starts[first:after] - begin, ends[first:after] - begin)
        first = after
    return finalize(hashes)


def finalize(hashes: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit of the hashes over all of them (the finalizer of SplitMix64: Steele, Lea and Flood 2014)."""
    mixed = (hashes ^ (hashes >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _without_marks(kinds: Categories, marks: NDArray[np.bool_]) -> Categories:
    """Give each mark the category of the character it belongs to; marks at the beginning belong to nothing."""
    places = np.flatnonzero(marks)
    first = np.ones(len(places), bool)
    first[1:] = np.diff(places) > 1
    bases = places[first] - 1
    of_base = np.where(bases < 0, OTHER, kinds[bases]).astype(np.uint8)
    base = kinds.copy()
    base[places] = of_base[np.cumsum(first) - 1]
    return base


def _hash_piece(piece: Codepoints, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """[units] The sum of c_j * base^(j - start) over each unit, plus its length: prefix sums, then a shift back."""
    powers, inverses = _powers()
    sums = np.zeros(len(piece) + 1, np.uint64)
    np.cumsum(piece * powers[: len(piece)], out=sums[1:])
    lengths = (ends - starts).astype(np.uint64)
    return (sums[np.minimum(ends, len(piece))] - sums[starts]) * inverses[starts] + lengths


@functools.cache
def _powers() -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """[65536] Powers of an odd base modulo 2^64, and of its inverse."""
    inverse = pow(_BASE, -1, 2**64)
    return _powers_of(_BASE), _powers_of(inverse)


def _powers_of(base: int) -> NDArray[np.uint64]:
    powers = np.full(_PIECE, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


@functools.cache
def _lower() -> Codepoints:
    """[0x110000] The lower case of every code point that has one, of a single code point."""
    table = np.arange(0x110000, dtype=np.uint32)
    for code in np.flatnonzero(_table() == UPPERCASE).tolist():
        lower = chr(code).lower()
        if len(lower) == 1:
            table[code] = ord(lower)
    return table


@functools.cache
def _table() -> Categories:
    """[0x110000] The category of every code point."""
    table = np.full(0x110000, OTHER, np.uint8)
    general = [_GENERAL.get(unicodedata.category(chr(code)), OTHER) for code in range(_LAST_ASSIGNED)]
    table[:_LAST_ASSIGNED] = general
    table[0xE0000:0xE0080], table[0xE0100:0xE01F0], table[0xF0000:] = INVISIBLE, MARK, PRIVATE
    table[[ord(space) for space in _SPACES]] = SPACE
    table[[ord(joiner) for joiner in _JOINERS]] = JOINER
    for kind, blocks in ((HAN, _HAN), (KANA, _KANA)):
        for first, last in blocks:
            table[first : last + 1] = kind
    letters = (table == LETTER) | (table == LOWERCASE)
    for first, last in _UNSPACED:
        table[first : last + 1][letters[first : last + 1]] = UNSPACED
    return table
