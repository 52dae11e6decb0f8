"""What a cleaning step is: settings that build a function from a document to a document or a rejection."""

from collections.abc import Callable
from typing import NamedTuple

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
    """Only for documents in these languages (en, zh, ...); unset: for all."""

    def build(self) -> Step:
        """Make the function; called once a process, so that word lists and models are loaded once."""
        raise NotImplementedError
