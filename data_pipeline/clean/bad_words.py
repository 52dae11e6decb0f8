"""Documents with obscene words."""

import hashlib
from collections.abc import Iterable
from typing import Literal

import numpy as np
from pydantic import Field

from data_pipeline.clean.bad_word_lists import LISTS
from data_pipeline.clean.step import Rejected, Step, StepSettings
from data_pipeline.clean.view import View, view_of
from data_pipeline.errors import DataError
from data_pipeline.read import Document
from data_pipeline.settings import Place


class BadWords(StepSettings):
    """Rejects documents with a word that is listed for their language (the rule of C4: Raffel et al. 2020).

    A document whose language is not known is held against all lists. Upper and lower case are the same. A word is found
    as a whole word, and where words have no spaces (Chinese, Japanese, Thai) wherever its characters stand together.
    Short lists for en and zh come with this software; they are no substitute for ones made for your purpose.
    """

    step: Literal["bad_words"]
    """Selects this step."""
    files: dict[str, Place] = Field({})
    """Language -> a file of your own (UTF-8, a word or phrase a line), also instead of the lists for en and zh."""

    def build(self) -> Step:
        """Read the lists. DataError when a file cannot be read."""
        words = LISTS | {language: _read(file) for language, file in self.files.items()}
        lists = {language: Phrases(listed) for language, listed in words.items()}
        every = Phrases([word for listed in words.values() for word in listed])

        def step(document: Document) -> Document | Rejected:
            phrases = every if document.language is None else lists.get(document.language)
            if phrases and phrases.among(view_of(document.text)):
                return Rejected("bad_words", "a listed word")
            return document

        return step

    def fingerprint(self) -> str:
        """Digest of the files' words."""
        words = {language: _read(file) for language, file in sorted(self.files.items())}
        return hashlib.sha256(repr(words).encode()).hexdigest() if words else ""


class Phrases:
    """Words and phrases, found as sequences of units."""

    def __init__(self, phrases: Iterable[str]) -> None:
        self._first: dict[int, list[tuple[list[int], list[bool]]]] = {}
        for phrase in phrases:
            view = View(phrase)
            if view.num_units:
                hashes = view.folded_hashes.tolist()
                self._first.setdefault(hashes[0], []).append((hashes, _joined(view, 0, len(hashes))))
        self._maybe = np.zeros(2**16, bool)
        """[65536] Whether a hash with this beginning starts a phrase."""
        self._maybe[[first >> 48 for first in self._first]] = True

    def among(self, view: View) -> bool:
        """Whether one of them is in the text."""
        hashes = view.folded_hashes
        for place in np.flatnonzero(self._maybe[hashes >> np.uint64(48)]).tolist():
            for phrase, joined in self._first.get(int(hashes[place]), ()):
                end = place + len(phrase)
                if hashes[place:end].tolist() == phrase and _joined(view, place, end) == joined:
                    return True
        return False


def _joined(view: View, first: int, after: int) -> list[bool]:
    """[units - 1] Whether each of these units begins where the one before ends."""
    starts, ends = view.spans
    return (starts[first + 1 : after] == ends[first : after - 1]).tolist()


def _read(place: Place) -> list[str]:
    import fsspec

    try:
        with fsspec.open(place, "rt", encoding="utf-8-sig") as file:
            words = file.read().splitlines()
    except (OSError, ValueError, ImportError) as error:
        raise DataError(f"cannot read the word list {place}: {error}.") from error
    if not any(map(str.strip, words)):
        raise DataError(f"the word list {place} is empty.")
    return words
