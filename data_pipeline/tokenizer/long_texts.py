"""Texts longer than 2^20 characters go through the encoders in parts.

An encoder holds about a hundred bytes for each character at once, and some take more than linear time over a stretch
that they cannot split. The cuts are between a letter or digit and the space or line end after it: there the split
rules of GPT-2, Llama 3, o200k, sentencepiece and BERT end a piece whatever follows, so the ids are those of the
whole text. What holds for a given tokenizer is tried on a few texts. Only where 2^20 characters hold no such place
(base64, say, or Chinese without a line end) the cut falls where the limit is, which can split one token in two.
"""

from collections.abc import Sequence

import numpy as np

from data_pipeline.tokenizer.encoders import Encoder, Flat

LONGEST = 1 << 20
"""Characters encoded in one go."""
_LEFT = ("It is 12", "a) Čapek", "  x = y", "床前明月光")
_RIGHT = (" of them", "  two spaces", " -1\n", " 😀")


class LongTexts:
    """An encoder that never gives the one beneath more than `LONGEST` characters of a text at a time."""

    def __init__(self, encoder: Encoder) -> None:
        """Cut for `encoder`."""
        self._encoder = encoder
        self.name = encoder.name
        self._drops_space: bool | None = None

    def encode(self, texts: Sequence[str]) -> Flat:
        """Encode each text, in parts where it is long."""
        if max(map(len, texts), default=0) <= LONGEST:
            return self._encoder.encode(texts)
        parts = [self._cut(text) for text in texts]
        flats = [self._encoder.encode([part]) for pieces in parts for part in pieces]
        lengths = np.array([flat.lengths[0] for flat in flats])
        starts = np.cumsum([0] + [len(pieces) for pieces in parts[:-1]])
        return Flat(np.concatenate([flat.ids for flat in flats]), np.add.reduceat(lengths, starts))

    def _cut(self, text: str) -> list[str]:
        """Parts of at most `LONGEST` characters; the space at a cut is left out where the encoder puts one itself."""
        parts, start = [], 0
        while len(text) - start > LONGEST:
            end = _boundary(text, start, start + LONGEST)
            parts.append(text[start:end])
            start = end + (self._puts_a_space() and text[end] == " ")
        return [*parts, text[start:]]

    def _puts_a_space(self) -> bool:
        """True for an encoder that begins each text as if a space stood before it, as sentencepiece models do."""
        if self._drops_space is None:
            kept = [(left, right) for left in _LEFT for right in _RIGHT]
            whole = self._encoder.encode([left + right for left, right in kept]).split()
            self._drops_space = not self._agrees(whole, kept) and self._agrees(whole, [(a, b[1:]) for a, b in kept])
        return self._drops_space

    def _agrees(self, whole: list[np.ndarray], pairs: list[tuple[str, str]]) -> bool:
        left = self._encoder.encode([a for a, _ in pairs]).split()
        right = self._encoder.encode([b for _, b in pairs]).split()
        return all(np.array_equal(w, np.concatenate([a, b])) for w, a, b in zip(whole, left, right, strict=True))


def _boundary(text: str, start: int, limit: int) -> int:
    """Place of the last space, or else line end, before `limit` that follows a letter or digit; else `limit` itself."""
    for white in " \n":
        at = text.rfind(white, start + 1, limit)
        while at > start:
            if text[at - 1].isalnum():
                return at
            at = text.rfind(white, start + 1, at)
    return limit
