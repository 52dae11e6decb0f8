"""The quality rules of FineWeb (Penedo et al. 2024, arXiv:2406.17557, section 3.6)."""

from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt

from data_pipeline.clean.gopher_quality import words_and_marks
from data_pipeline.clean.repetition import duplicates
from data_pipeline.clean.step import Rejected, Step, StepSettings
from data_pipeline.clean.view import View, view_of
from data_pipeline.read import Document

Share = Annotated[float, Field(ge=0, le=1)]
SENTENCE_ENDS = ".!?…‼‽⁇⁈⁉。！？．｡﹒﹖﹗։؝؞؟۔।॥။፧፨។៕"
"""Marks that end a sentence (Unicode's Sentence_Terminal, without rare scripts, and the ellipsis)."""


class FineWeb(StepSettings):
    """Rules for lines, with the thresholds of the published code; a rule whose threshold is null is off.

    Lines are those that are not blank, without white space around them.
    """

    step: Literal["fineweb"]
    """Selects this step."""
    min_punctuated_lines: Share | None = 0.12
    """Least share of lines that end with one of `stop_characters`."""
    stop_characters: str = SENTENCE_ENDS
    """Marks that end a sentence."""
    max_short_lines: Share | None = 0.67
    """Greatest share of short lines."""
    short_line: NonNegativeInt = 30
    """A line of at most so many characters is short."""
    max_duplicate_line_characters: Share | None = 0.01
    """Greatest share of characters in lines that are an earlier line again: 0.01 in the code, 0.1 in the paper."""
    max_newlines_per_word: NonNegativeFloat | None = 0.3
    """Most line breaks for each word: more make a list. As in FineWeb's code, where alone this rule stands, each mark
    of punctuation is a word beside the units of data_pipeline.units."""

    def build(self) -> Step:
        """Apply the rules."""
        ends = tuple(self.stop_characters)

        def step(document: Document) -> Document | Rejected:
            view = view_of(document.text)
            reason = self._lines(view.lines, ends) or self._text(view)
            return Rejected("fineweb", reason) if reason else document

        return step

    def _lines(self, lines: list[str], ends: tuple[str, ...]) -> str | None:
        least = self.min_punctuated_lines
        if least is not None and sum(line[-1] in ends for line in lines) < least * len(lines):
            return f"less than {least:g} of the lines end with punctuation"
        most = self.max_short_lines
        if most is not None and sum(len(line) <= self.short_line for line in lines) > most * len(lines):
            return f"more than {most:g} of the lines have at most {self.short_line} characters"
        return None

    def _text(self, view: View) -> str | None:
        most = self.max_duplicate_line_characters
        breaks = view.text.count("\n")
        if most is not None and duplicates(view.lines, len(view.text) - breaks)[1] > most:
            return f"more than {most:g} of the characters are in duplicate lines"
        most = self.max_newlines_per_word
        if most is not None and breaks > most * words_and_marks(view):
            return f"more than {most:g} line breaks a word"
        return None
