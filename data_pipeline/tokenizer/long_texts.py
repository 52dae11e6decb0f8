"""Texts longer than 2^20 characters go through the encoders in parts.

An encoder holds about a hundred bytes for each character at once. The cuts are where the split rules of GPT-2, Llama
3, o200k, sentencepiece and BERT end a piece whatever stands around: behind a letter or digit before a space or line
end, or behind a line end before a letter or digit. So the ids are those of the whole text. Only where 2^20
characters hold no such place (base64, say) the cut falls where the limit is, which can split one token in two.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from data_pipeline.tokenizer.encoders import Encoder, Flat

LONGEST = 1 << 20
"""Characters encoded in one go."""
_PLACES = re.compile(r"(?<=[^\W_])(?=[ \n])|(?<=\S\n)(?=[^\W_])")
_PLACES_WITH_SPACE = re.compile(r"(?<=[^\W_])(?= \S)|(?<=\S)(?=\n)")
"""For encoders that begin each text as if a space stood before it."""
_WINDOWS = (1 << 12, 1 << 16, 1 << 20)
_TRIALS = (
    "It is 12 of them, a) Čapek\nwrote: x = y\n",
    "床前明月光，\n疑是地上霜。\n舉頭望明月",
    "two  spaces -1\nand 😀 \n a",
)


class _Part(NamedTuple):
    """A text, or what is encoded of it in one go."""

    text: str
    surplus: int = 0
    """Ids at its beginning that the whole text would not have there."""


class LongTexts:
    """An encoder that never gives the one beneath more than `LONGEST` characters of a text at a time."""

    def __init__(self, encoder: Encoder) -> None:
        """Cut for `encoder`."""
        self._encoder = encoder
        self.name = encoder.name
        self._puts_a_space: bool | None = None

    def encode(self, texts: Sequence[str]) -> Flat:
        """Encode each text, in parts where it is long."""
        if max(map(len, texts), default=0) <= LONGEST:
            return self._encoder.encode(texts)
        parts = [self._parts(text) for text in texts]
        flat = self._encode_parts([part for some in parts for part in some])
        starts = np.cumsum([0] + [len(some) for some in parts[:-1]])
        return Flat(flat.ids, np.add.reduceat(flat.lengths, starts))

    def _parts(self, text: str) -> list[_Part]:
        if len(text) <= LONGEST:
            return [_Part(text)]
        if self._puts_a_space is None:
            self._puts_a_space = not self._is_right(False) and self._is_right(True)
        places = _PLACES_WITH_SPACE if self._puts_a_space else _PLACES
        return _cut(text, _ends(places, text, LONGEST), self._puts_a_space)

    def _encode_parts(self, parts: list[_Part]) -> Flat:
        """Encode parts, some at a time, without their surplus."""
        flats, batch, size = [], list[str](), 0
        for part in parts:
            if batch and size + len(part.text) > LONGEST:
                flats.append(self._encoder.encode(batch))
                batch, size = [], 0
            batch.append(part.text)
            size += len(part.text)
        flats.append(self._encoder.encode(batch))
        ids, lengths = np.concatenate([flat.ids for flat in flats]), np.concatenate([flat.lengths for flat in flats])
        starts = np.cumsum(lengths) - lengths
        surplus = [number for number, part in enumerate(parts) if part.surplus and lengths[number]]
        if not surplus:
            return Flat(ids, lengths)
        lengths[surplus] -= 1
        return Flat(np.delete(ids, starts[surplus]), lengths)

    def _is_right(self, puts_a_space: bool) -> bool:
        """Cut some short texts at every place: are the ids those of the whole?"""
        places = _PLACES_WITH_SPACE if puts_a_space else _PLACES
        for text in _TRIALS:
            ends = [0, *(match.start() for match in places.finditer(text)), len(text)]
            parts = self._encode_parts(_cut(text, ends, puts_a_space))
            if not np.array_equal(parts.ids, self._encoder.encode([text]).ids):
                return False
        return True


def pieces(text: str, longest: int) -> Iterator[str]:
    """The text in pieces of at most `longest` characters, which end where words do, if there is such a place."""
    for start, end in pairwise(_ends(_PLACES, text, longest)):
        yield text[start:end]


def _ends(places: re.Pattern[str], text: str, longest: int) -> list[int]:
    """0, where the text is cut, and its end."""
    ends = [0]
    while len(text) - ends[-1] > longest:
        ends.append(_last_place(places, text, ends[-1], ends[-1] + longest))
    return [*ends, len(text)]


def _cut(text: str, ends: list[int], puts_a_space: bool) -> list[_Part]:
    """The parts between some places. Where the encoder puts a space itself, ours goes, or else one id is surplus."""
    parts = []
    for start, end in pairwise(ends):
        own_space = puts_a_space and start > 0
        skipped = own_space and text[start] == " "
        parts.append(_Part(text[start + skipped : end], int(own_space and not skipped)))
    return parts


def _last_place(places: re.Pattern[str], text: str, start: int, limit: int) -> int:
    """The last place to cut behind `start` and before `limit`; else `limit` itself."""
    for window in _WINDOWS:
        found = [match.start() for match in places.finditer(text, max(start + 1, limit - window), limit)]
        if found:
            return found[-1]
    return limit
