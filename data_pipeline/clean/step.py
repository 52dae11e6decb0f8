"""What a cleaning step is, and what comes of a document that it does not let through."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple, Self

from pydantic import model_validator

from data_pipeline.read import Document
from data_pipeline.settings import Settings


class Rejected(NamedTuple):
    """A document that a step does not let through."""

    step: str
    """Name of the step, as configured."""
    reason: str
    """Why, in a few words that are the same for all documents of the kind: they are counted."""


Step = Callable[[Document], Document | Rejected]
"""A pure function: the same document gives the same answer in any process, in any order."""


class StepSettings(Settings):
    """Settings of one step. A subclass has a field `step: Literal["name"]` and builds the function."""

    languages: list[str] | None = None
    """Only for documents in these languages (en, zh, ...), as the source's settings or a `language` step above say;
    unset: for all."""

    @model_validator(mode="after")
    def _leave_room(self) -> Self:
        """Between the bounds of the same thing there must be room, or the step rejects everything."""
        for name in type(self).model_fields:
            least, most = getattr(self, name), getattr(self, name.replace("min_", "max_", 1), None)
            if name.startswith("min_") and None not in (least, most) and least > most:
                raise ValueError(f"{name}={least} is more than {name.replace('min_', 'max_', 1)}={most}")
        return self

    @property
    def name(self) -> str:
        """What the step is called in reports."""
        return str(getattr(self, "step"))  # noqa: B009 - the field is the subclass's

    def build(self) -> Step:
        """Make the function; called once a process, so that word lists and models are loaded once."""
        raise NotImplementedError

    def fingerprint(self) -> str:
        """Digest of what the settings point at outside themselves (files, code): what is made of it is made again."""
        return ""


def with_text(document: Document, text: str) -> Document:
    """The document with this text: the very same one when nothing changed."""
    return document if text == document.text else replace(document, text=text)
