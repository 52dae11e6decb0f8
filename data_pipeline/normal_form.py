"""Unicode normalisation in linear time."""

import functools
import re
import unicodedata
from typing import Literal

Form = Literal["NFC", "NFKC"]

_MOST_MARKS = 30
"""More marks on one character are no language's (Unicode Standard Annex #15, section 13), and take quadratic time."""


def normal_form(form: Form, text: str) -> str:
    """Bring the text into the form; of text that is in it already, the very same is returned after a quick check.

    In text that is not, a character with more than 30 combining marks keeps 30 of them.
    """
    if text.isascii() or unicodedata.is_normalized(form, text):
        return text
    return _calm(form, unicodedata.normalize(form, _calm(form, text)))


def _calm(form: Form, text: str) -> str:
    perhaps, heaps = _heaps(form)
    return heaps.sub(r"\1", text) if perhaps.search(text) else text


@functools.cache
def _heaps(form: Form) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Find too many characters in a row that are marks, or become nothing but marks when they are taken apart.

    The first pattern takes all characters beyond U+FFFF for marks: `re` looks up the others in a table, but compares
    with those one by one, which takes ten times as long.
    """
    apart: Literal["NFD", "NFKD"] = "NFD" if form == "NFC" else "NFKD"
    every = map(chr, range(0x300, 0x1F000))
    marks = [c for c in every if all(map(unicodedata.combining, unicodedata.normalize(apart, c)))]
    few = re.escape("".join(c for c in marks if c <= "\uffff")) + "\U00010000-\U0010ffff"
    exact = re.escape("".join(marks))
    # A set in front, not a repetition, lets `re` skip all that is not in it.
    return (
        re.compile(f"[{few}][{few}]{{{_MOST_MARKS}}}"),
        re.compile(f"([{exact}]{{{_MOST_MARKS}}})[{exact}]+"),
    )
