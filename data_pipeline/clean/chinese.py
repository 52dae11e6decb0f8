"""Quality rules for Chinese, in which words have no spaces and characters are the units."""

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from data_pipeline import units
from data_pipeline.clean.ngrams import too_repetitive
from data_pipeline.clean.repetition import Shares
from data_pipeline.clean.step import Rejected, Step, StepSettings
from data_pipeline.clean.view import View, view_of
from data_pipeline.read import Document

Share = Annotated[float, Field(ge=0, le=1)]
_BROKEN = ("锟斤拷", "烫烫烫", "屯屯屯")
"""What stays of text that was decoded wrongly and encoded again, and of memory that was never written."""


class Chinese(StepSettings):
    """Rules for Chinese text, simplified or traditional; a rule whose threshold is null is off.

    In a corpus of several languages give `languages: [zh]`. Other shares than that of Han characters are of the
    characters that are not white space, those of n-grams of all. The thresholds are our own: what FineWeb and Gopher
    ask of English, with about 1.6 characters to a word.
    """

    step: Literal["chinese"]
    """Selects this step."""
    min_han: Share | None = 0.5
    """Least share of Han characters, each word or number of another script counted as one beside them."""
    min_punctuation: Share | None = 0.005
    """Least share of punctuation: lists of keywords have none."""
    max_punctuation: Share | None = 0.35
    """Greatest share of punctuation and symbols."""
    min_ended_lines: Share | None = 0.12
    """Least share of lines that end with one of `end_marks`."""
    end_marks: str = "。！？；…：，、.!?;”’」』》）】)"
    """Marks that end a line of text, also of verse."""
    max_top_character: Share | None = 0.2
    """Greatest share of the commonest Han character."""
    max_top_ngram: Shares = Field({3: 0.2, 5: 0.18, 6: 0.16})
    """For n characters: the greatest share in the commonest n-gram."""
    max_duplicate_ngrams: Shares = Field({8: 0.15, 10: 0.14, 12: 0.12, 16: 0.1})
    """For n characters: the greatest share in n-grams that are an earlier one again."""
    broken: bool = True
    """Whether documents with 锟斤拷 and its like go: what they said is lost."""

    def build(self) -> Step:
        """Apply the rules, the cheap ones first."""

        def step(document: Document) -> Document | Rejected:
            view = view_of(document.text)
            reason = self._characters(view) or self._lines(view.lines) or self._repetition(view)
            return Rejected("chinese", reason) if reason else document

        return step

    def _characters(self, view: View) -> str | None:
        if self.broken and any(mark in view.text for mark in _BROKEN):
            return "broken beyond repair"
        if self.min_han is not None and view.counts[units.HAN] < self.min_han * view.num_units:
            return f"Han characters are less than {self.min_han:g}"
        marks = view.share(units.PUNCTUATION, units.SYMBOL)
        if self.min_punctuation is not None and marks < self.min_punctuation:
            return f"punctuation is less than {self.min_punctuation:g}"
        if self.max_punctuation is not None and marks > self.max_punctuation:
            return f"punctuation is more than {self.max_punctuation:g}"
        return None

    def _lines(self, lines: list[str]) -> str | None:
        least = self.min_ended_lines
        if least is not None and sum(line[-1] in self.end_marks for line in lines) < least * len(lines):
            return f"less than {least:g} of the lines end with punctuation"
        return None

    def _repetition(self, view: View) -> str | None:
        if self.max_top_character is not None:
            han = view.codepoints[view.categories == units.HAN]
            commonest = int(np.unique_counts(han).counts.max(initial=0))
            if commonest > self.max_top_character * (len(view.text) - view.counts[units.SPACE]):
                return f"one character is more than {self.max_top_character:g}"
        return too_repetitive(view, self.max_top_ngram, self.max_duplicate_ngrams)
