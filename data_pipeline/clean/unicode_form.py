"""One way to write each character."""

import functools
import re
import unicodedata
from typing import Literal

from data_pipeline.clean.step import Step, StepSettings, with_text
from data_pipeline.read import Document

_MOST_MARKS = 30
"""More marks on one character are no language's (Unicode Standard Annex #15, section 13), and take quadratic time."""


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
            text = document.text
            if text.isascii() or unicodedata.is_normalized(self.form, text):
                return document
            return with_text(document, _calm(unicodedata.normalize(self.form, _calm(text))))

        return step


def _calm(text: str) -> str:
    return _heaps().sub(r"\1", text)


@functools.cache
def _heaps() -> re.Pattern[str]:
    marks = "".join(filter(unicodedata.combining, map(chr, range(0x300, 0x1F000))))
    return re.compile(f"([{re.escape(marks)}]{{{_MOST_MARKS}}})[{re.escape(marks)}]+")
