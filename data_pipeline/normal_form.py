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
    return _heaps(form).sub(r"\1", text)


@functools.cache
def _heaps(form: Form) -> re.Pattern[str]:
    """Find too many characters in a row that are marks, or become nothing but marks when they are taken apart."""
    apart: Literal["NFD", "NFKD"] = "NFD" if form == "NFC" else "NFKD"
    every = map(chr, range(0x300, 0x1F000))
    marks = re.escape("".join(c for c in every if all(map(unicodedata.combining, unicodedata.normalize(apart, c)))))
    return re.compile(f"([{marks}]{{{_MOST_MARKS}}})[{marks}]+")
