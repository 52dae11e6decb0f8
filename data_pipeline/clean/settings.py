"""What each cleaning step is told; `clean` is a list of these, run in the order written."""

from typing import Annotated, Literal

from pydantic import Field

from data_pipeline.clean.step import Step, StepSettings


class Whitespace(StepSettings):
    """Placeholder until the steps are here."""

    step: Literal["whitespace"]
    """Selects this step."""

    def build(self) -> Step:
        """Nothing yet."""
        return lambda document: document


CleaningStep = Annotated[Whitespace, Field()]
