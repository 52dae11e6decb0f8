"""Hostile Unicode: texts on which tokenizers have been seen to disagree, drawn from a seed."""

import random
from collections.abc import Callable, Iterator

SPECIALS = [
    "<|endoftext|>",
    "</s>",
    "<s>",
    "[SEP]",
    "[MASK]",
    "<unk>",
    "<0x41>",
    "<|end_of_text|>",
    "<|im_end|>",
    "[INST]",
]
_SPACES = " \t\n\r\x0b\x0c\x1c\x1f\x85\xa0\u1680\u2000\u2003\u2028\u2029\u202f\u205f\u3000\u200b\ufeff▁"
_MARKS = "\u0301\u0308\u0323\u20d7\u0e31\u094d\u0650\ufe0f\U0001f3fd"
_SCRIPTS = [
    "abcXYZ",
    "éßİıſ",
    "абвЖ",
    "אבגד",
    "ابتث",
    "कखग",
    "กขค",
    "漢字仮名",
    "かなカナﾊﾝ",
    "한글",
    "𝔸𝕓𝟘",
    "Ⅳ½²①",
    "ᏣᎳᎩ",
    "𐐀𐐨",
]
_EMOJI = ["👩\u200d👩\u200d👧\u200d👦", "👍🏽", "🇩🇪🇫🇷", "❤️", "🏴\U000e0067\U000e0062\U000e007f", "1️⃣"]


def hostile_texts(count: int, seed: int = 0) -> Iterator[str]:
    """Texts of a few to some hundred characters, each of one kind of mischief."""
    draw = random.Random(seed)
    for _ in range(count):
        yield draw.choice(_KINDS)(draw)


def every_code_point(template: str = "a{0}b 1{0}2 {0}{0}\n") -> Iterator[str]:
    """The template with each code point of Unicode in it, but for surrogates."""
    for value in range(0x110000):
        if not 0xD800 <= value < 0xE000:
            yield template.format(chr(value))


def _any_planes(draw: random.Random) -> str:
    return "".join(chr(_code_point(draw, draw.randrange(5, 21))) for _ in range(draw.randrange(1, 60)))


def _code_point(draw: random.Random, bits: int) -> int:
    value = min(draw.randrange(1 << bits) + draw.choice([0, 0, 0x10000]), 0x10FFFF)
    return 0xFFFD if 0xD800 <= value < 0xE000 else value


def _spaces(draw: random.Random) -> str:
    words = ["x", "the", "1", "。", "-", *_SPACES]
    return "".join(draw.choice(words) * draw.choice([1, 1, 2, 3, 17]) for _ in range(draw.randrange(1, 40)))


def _marks(draw: random.Random) -> str:
    return "".join(draw.choice([*_MARKS, "a", "e", " ", "क"]) for _ in range(draw.randrange(1, 40)))


def _scripts(draw: random.Random) -> str:
    words = ("".join(draw.choices(draw.choice(_SCRIPTS), k=draw.randrange(1, 9))) for _ in range(12))
    return draw.choice([" ", "", "\u202e", "-", "'"]).join(words)


def _controls(draw: random.Random) -> str:
    return "".join(chr(draw.choice([*range(32), 127, 0xAD, 0x200E, 0x2066, 0xFFFD, 0x61])) for _ in range(30))


def _look_alikes(draw: random.Random) -> str:
    return "".join(draw.choice([*SPECIALS, " ", "x", "\n", "<", "|", ">", "[", "##"]) for _ in range(12))


def _long_word(draw: random.Random) -> str:
    unit = "".join(draw.choices("abcdeé漢1-", k=draw.randrange(1, 5)))
    return unit * draw.randrange(50, 400)


def _emoji(draw: random.Random) -> str:
    return "".join(draw.choice([*_EMOJI, "a", " ", "\u200d"]) for _ in range(20))


def _contractions(draw: random.Random) -> str:
    ends = ["s", "S", "ſ", "ll", "LL", "t", "re", "ve", "d", "M", "x"]
    return " ".join(draw.choice(["I", "we", "É", "1", ""]) + draw.choice("'’`") + draw.choice(ends) for _ in range(10))


_KINDS: list[Callable[[random.Random], str]] = [
    _any_planes, _spaces, _marks, _scripts, _controls, _look_alikes, _long_word, _emoji, _contractions,
]  # fmt: skip
