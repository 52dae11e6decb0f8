"""Documents that are too short or too long."""

from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from data_pipeline.clean.step import Rejected, Step, StepSettings
from data_pipeline.clean.view import view_of
from data_pipeline.read import Document


class Length(StepSettings):
    """Bounds for the length of a document; an unset bound does not count."""

    step: Literal["length"]
    """Selects this step."""
    min_characters: NonNegativeInt | None = None
    """Least number of characters."""
    max_characters: PositiveInt | None = None
    """Greatest number of characters."""
    min_units: NonNegativeInt | None = None
    """Least number of units (words, or characters of a script without spaces)."""
    max_units: PositiveInt | None = None
    """Greatest number of units."""

    def build(self) -> Step:
        """Compare lengths."""

        def step(document: Document) -> Document | Rejected:
            reason = self._reason(document.text)
            return Rejected("length", reason) if reason else document

        return step

    def _reason(self, text: str) -> str | None:
        if self.min_characters is not None and len(text) < self.min_characters:
            return f"fewer than {self.min_characters} characters"
        if self.max_characters is not None and len(text) > self.max_characters:
            return f"more than {self.max_characters} characters"
        if self.min_units is None and self.max_units is None:
            return None
        units = view_of(text).num_units
        if self.min_units is not None and units < self.min_units:
            return f"fewer than {self.min_units} units"
        if self.max_units is not None and units > self.max_units:
            return f"more than {self.max_units} units"
        return None
