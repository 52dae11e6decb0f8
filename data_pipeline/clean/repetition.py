"""The repetition rules of Gopher (Rae et al. 2021, arXiv:2112.11446, table A1)."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from data_pipeline.clean.ngrams import too_repetitive
from data_pipeline.clean.step import Rejected, Step, StepSettings
from data_pipeline.clean.view import View, view_of
from data_pipeline.read import Document

Share = Annotated[float, Field(ge=0, le=1)]
Shares = Annotated[
    dict[Annotated[int, Field(ge=2, le=100)], Share], AfterValidator(lambda given: dict(sorted(given.items())))
]
"""Units in an n-gram -> the greatest share of the characters."""


class Repetition(StepSettings):
    """How much of a text may be said twice, with the paper's thresholds; a rule whose threshold is null is off.

    Words are the units of data_pipeline.units, so that characters of Chinese are: give Chinese its own step, `chinese`.
    Lines are those that are not blank, without white space around them.
    """

    step: Literal["repetition"]
    """Selects this step."""
    max_duplicate_lines: Share | None = 0.3
    """Greatest share of lines that are an earlier line again."""
    max_duplicate_paragraphs: Share | None = 0.3
    """Greatest share of paragraphs (between blank lines) that are an earlier one again."""
    max_duplicate_line_characters: Share | None = 0.2
    """Greatest share of characters in such lines."""
    max_duplicate_paragraph_characters: Share | None = 0.2
    """Greatest share of characters in such paragraphs."""
    max_top_ngram: Shares = Field({2: 0.2, 3: 0.18, 4: 0.16})
    """For n words: the greatest share of characters in the commonest n-gram of those that come more than once."""
    max_duplicate_ngrams: Shares = Field({5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.1})
    """For n words: the greatest share of characters in n-grams that are an earlier one again, none counted twice; what
    is between their words counts too."""

    def build(self) -> Step:
        """Apply the rules, the cheap ones first."""

        def step(document: Document) -> Document | Rejected:
            view = view_of(document.text)
            reason = (
                self._paragraphs(view)
                or self._lines(view)
                or too_repetitive(view, self.max_top_ngram, self.max_duplicate_ngrams)
            )
            return Rejected("repetition", reason) if reason else document

        return step

    def _paragraphs(self, view: View) -> str | None:
        if "\n\n" not in view.text:
            return None
        paragraphs = [part for part in view.text.split("\n\n") if part and not part.isspace()]
        share, characters = duplicates(paragraphs, len(view.text))
        if self.max_duplicate_paragraphs is not None and share > self.max_duplicate_paragraphs:
            return f"more than {self.max_duplicate_paragraphs:g} of the paragraphs are duplicates"
        most = self.max_duplicate_paragraph_characters
        if most is not None and characters > most:
            return f"more than {most:g} of the characters are in duplicate paragraphs"
        return None

    def _lines(self, view: View) -> str | None:
        share, characters = duplicates(view.lines, len(view.text))
        if self.max_duplicate_lines is not None and share > self.max_duplicate_lines:
            return f"more than {self.max_duplicate_lines:g} of the lines are duplicates"
        most = self.max_duplicate_line_characters
        if most is not None and characters > most:
            return f"more than {most:g} of the characters are in duplicate lines"
        return None


def duplicates(parts: list[str], size: int) -> tuple[float, float]:
    """Share of the parts that are an earlier part again, and their characters as a share of `size`."""
    if not parts:
        return 0.0, 0.0
    distinct = set(parts)
    again = len(parts) - len(distinct)
    return again / len(parts), (sum(map(len, parts)) - sum(map(len, distinct))) / size if again else 0.0
