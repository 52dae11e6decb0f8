"""The quality rules of Gopher (Rae et al. 2021, arXiv:2112.11446, appendix A.1.1)."""

from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt

from data_pipeline import units
from data_pipeline.clean.step import Rejected, Step, StepSettings
from data_pipeline.clean.view import View, view_of
from data_pipeline.read import Document

Share = Annotated[float, Field(ge=0, le=1)]
_ELLIPSES = ("...", "…")
_BULLETS = ("•", "-")
_ROWS = ".-~"


class GopherQuality(StepSettings):
    """Rules for text of words, with the paper's thresholds; a rule whose threshold is null is off.

    Words are the units of data_pipeline.units; lines those that are not blank, without white space around them. The
    rules are meant for English: give `languages: [en]`, or, for other languages, their own `stop_words`.
    """

    step: Literal["gopher_quality"]
    """Selects this step."""
    min_words: NonNegativeInt | None = 50
    """Least number of words."""
    max_words: PositiveInt | None = 100_000
    """Greatest number of words."""
    min_mean_word_length: NonNegativeFloat | None = 3
    """Least mean length of a word. Text of which most units are single characters (Chinese, ...) passes."""
    max_mean_word_length: NonNegativeFloat | None = 10
    """Greatest mean length of a word."""
    max_symbols_per_word: NonNegativeFloat | None = 0.1
    """Most hash signs for each word, and most ellipses for each word."""
    max_bullet_lines: Share | None = 0.9
    """Greatest share of lines that start with a bullet."""
    max_ellipsis_lines: Share | None = 0.3
    """Greatest share of lines that end with an ellipsis."""
    min_alphabetic_words: Share | None = 0.8
    """Least share of words with a letter."""
    punctuation_counts: bool = True
    """Whether each mark of punctuation is a word without a letter, and a row of dots, hyphens or tildes one, as in
    FineWeb's pipeline; false: only words between spaces are, which lets through more source code and tables."""
    min_stop_words: NonNegativeInt | None = 2
    """How many of the stop words must be there."""
    stop_words: tuple[str, ...] = ("the", "be", "to", "of", "and", "that", "have", "with")
    """Words that any text of the language has, as they are written (small letters)."""

    def build(self) -> Step:
        """Apply the rules, the cheap ones first."""

        def step(document: Document) -> Document | Rejected:
            view = view_of(document.text)
            reason = self._words(view) or self._symbols(view) or self._lines(view.lines) or self._language(view)
            return Rejected("gopher_quality", reason) if reason else document

        return step

    def _words(self, view: View) -> str | None:
        count = view.num_units
        if self.min_words is not None and count < self.min_words:
            return f"fewer than {self.min_words} words"
        if self.max_words is not None and count > self.max_words:
            return f"more than {self.max_words} words"
        if not count or sum(view.counts[units.HAN :]) * 2 > count:
            return None
        starts, ends = view.spans
        mean = int((ends - starts).sum()) / count
        if self.min_mean_word_length is not None and mean < self.min_mean_word_length:
            return f"words shorter than {self.min_mean_word_length:g} characters on average"
        if self.max_mean_word_length is not None and mean > self.max_mean_word_length:
            return f"words longer than {self.max_mean_word_length:g} characters on average"
        return None

    def _symbols(self, view: View) -> str | None:
        if self.max_symbols_per_word is None:
            return None
        hashes, ellipses = view.text.count("#"), sum(map(view.text.count, _ELLIPSES))
        most = self.max_symbols_per_word * words_and_marks(view) if hashes or ellipses else 0
        if hashes > most:
            return f"more than {self.max_symbols_per_word:g} hash signs a word"
        if ellipses > most:
            return f"more than {self.max_symbols_per_word:g} ellipses a word"
        return None

    def _lines(self, lines: list[str]) -> str | None:
        most = self.max_bullet_lines
        if most is not None and sum(line.startswith(_BULLETS) for line in lines) > most * len(lines):
            return f"more than {most:g} of the lines start with a bullet"
        most = self.max_ellipsis_lines
        if most is not None and sum(line.endswith(_ELLIPSES) for line in lines) > most * len(lines):
            return f"more than {most:g} of the lines end with an ellipsis"
        return None

    def _language(self, view: View) -> str | None:
        least = self.min_alphabetic_words
        if least is not None and self._alphabetic(view) < least:
            return f"letters in less than {least:g} of the words"
        if self.min_stop_words and not _has(view.text, self.stop_words, self.min_stop_words):
            return f"fewer than {self.min_stop_words} stop words"
        return None

    def _alphabetic(self, view: View) -> float:
        """Share of words with a letter; 1 for a text without words."""
        if self.punctuation_counts:
            starts, words = view.spans[0], words_and_marks(view)
        else:
            starts = _between_spaces(view.categories)
            words = len(starts)
        if not len(starts):
            return 1.0 if not words else 0.0
        letters = is_letter(view.categories)
        return int(np.logical_or.reduceat(letters, starts).sum()) / words


def is_letter(kinds: units.Categories) -> NDArray[np.bool_]:
    """[characters] Which of them are letters, of any script."""
    return ((kinds >= units.UPPERCASE) & (kinds < units.DIGIT)) | (kinds >= units.HAN)


def words_and_marks(view: View) -> int:
    """How many words there are where each mark of punctuation is one."""
    marks = view.counts[units.PUNCTUATION] + view.counts[units.SYMBOL]
    return view.num_units + marks - _inside(view) - _in_rows(view)


def _inside(view: View) -> int:
    """How many too many words there are where a number has marks in it (1,000.50 is one), or a word an apostrophe."""
    kinds, codepoints = view.categories, view.codepoints
    marks = (kinds[1:-1] == units.PUNCTUATION) | (kinds[1:-1] == units.SYMBOL)
    digits, letters = kinds == units.DIGIT, is_letter(kinds)
    apostrophes = (codepoints[1:-1] == ord("'")) | (codepoints[1:-1] == ord("’"))
    of_numbers = int(np.count_nonzero(marks & digits[:-2] & digits[2:]))
    return 2 * of_numbers + int(np.count_nonzero(apostrophes & letters[:-2] & letters[2:]))


def _in_rows(view: View) -> int:
    """How many marks follow another like them where a row is one word: an ellipsis, a dash, a ruler."""
    marks = [ord(mark) for mark in _ROWS if mark * 2 in view.text]
    again = view.codepoints[1:][view.codepoints[1:] == view.codepoints[:-1]] if marks else view.codepoints[:0]
    return sum(int(np.count_nonzero(again == mark)) for mark in marks)


def _between_spaces(kinds: units.Categories) -> NDArray[np.int64]:
    """[words] Where each run of characters that are not white space starts."""
    inside = kinds != units.SPACE
    inside[1:] &= kinds[:-1] == units.SPACE
    return np.flatnonzero(inside)


def _has(text: str, words: tuple[str, ...], least: int) -> bool:
    """Whether at least so many of the words are in the text; stops looking when they are."""
    found = 0
    for word in words:
        found += has_word(text, word)
        if found >= least:
            return True
    return False


def has_word(text: str, word: str) -> bool:
    """Whether the word is in the text, and not as a part of a longer one."""
    place = text.find(word)
    while place >= 0:
        after = text[place + len(word) : place + len(word) + 1]
        if not (place and _joined(text[place - 1], word[0])) and not (after and _joined(word[-1], after)):
            return True
        place = text.find(word, place + 1)
    return False


def _joined(left: str, right: str) -> bool:
    """Whether two characters beside each other are in one unit."""
    return all(units.MARK <= units.category_of(character) < units.HAN for character in (left, right))
