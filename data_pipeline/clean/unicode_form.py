"""One way to write each character."""

from typing import Literal

from data_pipeline.clean.step import Step, StepSettings, with_text
from data_pipeline.normal_form import normal_form
from data_pipeline.read import Document


class UnicodeForm(StepSettings):
    """Unicode normalisation. Text that is normal already costs a quick check.

    In text that is not, a character with more than 30 combining marks keeps 30 of them.
    """

    step: Literal["unicode"]
    """Selects this step."""
    form: Literal["NFC", "NFKC"] = "NFC"
    """NFC keeps what is seen; NFKC also makes ﬁ two letters, ２ a 2, and the Chinese comma an English one."""

    def build(self) -> Step:
        """Check, then normalise."""

        def step(document: Document) -> Document:
            return with_text(document, normal_form(self.form, document.text))

        return step
