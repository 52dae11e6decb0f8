"""Short ways to make a step and give it a text."""

from typing import Any

from pydantic import TypeAdapter

from data_pipeline.clean import Cleaner, CleaningStep, Rejected, StepSettings
from data_pipeline.read import Document

_ADAPTER: TypeAdapter[StepSettings] = TypeAdapter(CleaningStep)


def settings(step: str, **told: Any) -> StepSettings:
    """Settings of a step, as the configuration would give them."""
    return _ADAPTER.validate_python({"step": step, **told})


def document(text: str, language: str | None = None, source: str = "corpus.jsonl") -> Document:
    """A document with this text."""
    return Document(text, source, 7, "doc-7", 0, language)


def clean(text: str, step: str, language: str | None = None, **told: Any) -> str | Rejected:
    """What a step makes of a text."""
    result = Cleaner([settings(step, **told)])(document(text, language))
    return result if isinstance(result, Rejected) else result.text


def reason(text: str, step: str, language: str | None = None, **told: Any) -> str | None:
    """Why a step rejects a text; None where it does not."""
    result = clean(text, step, language, **told)
    return result.reason if isinstance(result, Rejected) else None
