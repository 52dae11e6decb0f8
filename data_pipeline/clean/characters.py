"""Documents made of too few letters, or too many of something else."""

from typing import Annotated, Literal

from pydantic import Field

from data_pipeline import units
from data_pipeline.clean.step import Rejected, Step, StepSettings
from data_pipeline.clean.view import View, view_of
from data_pipeline.read import Document

Share = Annotated[float, Field(ge=0, le=1)]
LETTERS = (units.UPPERCASE, units.LOWERCASE, units.LETTER, units.HAN, units.KANA, units.UNSPACED, units.MARK)


class Characters(StepSettings):
    """Bounds for the shares of kinds of characters, of all that are not white space; an unset bound does not count.

    The defaults are mild: they take out tables of numbers and text art, and keep source code.
    """

    step: Literal["characters"]
    """Selects this step."""
    min_letters: Share | None = 0.5
    """Least share of letters, of any script."""
    max_digits: Share | None = 0.3
    """Greatest share of digits."""
    max_symbols: Share | None = 0.4
    """Greatest share of punctuation and symbols."""
    max_uppercase: Share | None = None
    """Greatest share of capitals, of the letters that have a case."""

    def build(self) -> Step:
        """Compare shares."""

        def step(document: Document) -> Document | Rejected:
            reason = self._reason(view_of(document.text))
            return Rejected("characters", reason) if reason else document

        return step

    def _reason(self, view: View) -> str | None:
        if self.min_letters is not None and view.share(*LETTERS) < self.min_letters:
            return f"letters are less than {self.min_letters:g} of the characters"
        if self.max_digits is not None and view.share(units.DIGIT) > self.max_digits:
            return f"digits are more than {self.max_digits:g} of the characters"
        if self.max_symbols is not None and view.share(units.PUNCTUATION, units.SYMBOL) > self.max_symbols:
            return f"punctuation and symbols are more than {self.max_symbols:g} of the characters"
        upper, lower = view.counts[units.UPPERCASE], view.counts[units.LOWERCASE]
        if self.max_uppercase is not None and upper > self.max_uppercase * (upper + lower):
            return f"capitals are more than {self.max_uppercase:g} of the letters"
        return None
