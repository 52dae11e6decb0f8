"""Hostile texts: what a fast encoder must get right before it is trusted with a corpus."""

import random
from collections.abc import Iterable

import numpy as np

_WORDS = (
    "Hello, world! It's 12:30; they'll've said \"don't\".",
    "HELLO'S World'LL x'ſ ſ's I'ſ I'M i'm ’s",
    "1234567890 ١٢٣ 一二三 Ⅳ ½ x² 3.14e-10 0xFF",
    "def f(x):\n\treturn {'a': [x**2]}  # comment\r\n\r\n\r\n",
    "床前明月光，疑是地上霜。舉頭望明月，低頭思故鄉。",
    "한국어 조선글 かな カナ ﾊﾝｶｸ ไทย हिन्दी தமிழ் עִבְרִית العَرَبِيَّة ქართული አማርኛ",
    "e\u0301 é n\u0303 ñ \u0301a ﬁ ﷺ ß ẞ İ ı Å Å ｱ ａ",
    "👩\u200d👩\u200d👧\u200d👦 👍🏽 🇩🇪🇫🇷 ❤️ ☃\ufe0e \u200b\u200c\u200d\u2060\ufeff",
    "\u202eabc\u202c \u2066x\u2069 \u00ad- – — ‐ ‑ … · • ∑∞≠",
    "\x00 \x01\x07\x08\x0b\x0c\x1b[0m\x7f\x80\x85\x9f \xa0 \u1680\u2000\u2009\u2028\u2029\u202f\u205f\u3000",
    "\ufffd \ufffe \uffff \ufdd0 \ue000 \U000f0000 \U0010ffff \u0378 \u0e3b \u1ff5",
    "https://example.com/a?b=c&d=%20#e user@example.com C:\\dir\\file.txt $HOME/.x <b>bold</b> &amp;",
    "a" * 300,
    "ab" * 200,
    "ACGT" * 100,
    "的" * 200,
    "😀" * 60,
    "!?" * 80 + "=" * 90 + "\n" * 40 + "\r\n" * 20,
    "▁▁ ▁a ▁",
    "<0x41>",
    "a\n<0x0A>\n=<0xE4> <0x41>b",
    "",
)
_ALPHABET = [
    *" \n\t.,'’-/aAbzZ019é漢の가अا",
    " ",
    " ",
    "  ",
    "\r\n",
    "\u0301",
    "\u200d",
    "😀",
    "the",
    "ing",
    "'s",
    "'LL",
    "\u3000",
    "\0",
]
_RANDOM, _LENGTH = 400, 40


def probe_texts(special: Iterable[str] = (), runs: int = 0) -> list[str]:
    """A fixed list of hostile texts; with the names of special tokens, and runs of a character up to a length."""
    texts = list(_WORDS)
    for token in special:
        texts += [token, f"a{token}b", f" {token} {token}"]
    texts += [
        f"{before}{run * count}{after}" for run in " \n-=" for count in range(1, runs + 1) for before, after in _AROUND
    ]
    draw = random.Random(0)
    texts += ["".join(draw.choices(_ALPHABET, k=_LENGTH)) for _ in range(_RANDOM)]
    points = _code_points(draw, _RANDOM * _LENGTH)
    return texts + [points[start : start + _LENGTH] for start in range(0, len(points), _LENGTH)]


_AROUND = (("", ""), ("x", "y"), ("x\n", " \t"))


def _code_points(draw: random.Random, count: int) -> str:
    """Characters of any plane, the lower ones more often; never a surrogate."""
    bits = np.array(draw.choices(range(5, 21), k=count), np.uint32)
    values = np.frombuffer(draw.randbytes(4 * count), "<u4") & ((1 << bits) - 1)
    values[(values >= 0xD800) & (values <= 0xDFFF)] = 0xFFFD
    return values.astype("<u4").tobytes().decode("utf-32-le")
