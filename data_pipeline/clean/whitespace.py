"""White space as it should be."""

import re
from typing import Literal

from pydantic import NonNegativeInt

from data_pipeline.clean.step import Step, StepSettings, with_text
from data_pipeline.read import Document

_BREAKS = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_ODD_SPACES = re.compile("[\t\x1f\xa0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_SPACES = re.compile("  +")


class Whitespace(StepSettings):
    """Unix line breaks, no spaces at the ends of lines, few blank lines, none of either around the text."""

    step: Literal["whitespace"]
    """Selects this step."""
    max_blank_lines: NonNegativeInt = 1
    """Most blank lines in a row."""
    collapse_spaces: bool = False
    """Make one space of several, of tabs and of wider ones, and none before a line: not for source code."""

    def build(self) -> Step:
        """Clean line by line, in a time that is linear in the text."""
        most = "\n" * (self.max_blank_lines + 1)
        many = re.compile(most + "\n+")

        def step(document: Document) -> Document:
            text = _BREAKS.sub("\n", document.text)
            if self.collapse_spaces:
                text = _SPACES.sub(" ", _ODD_SPACES.sub(" ", text))
            lines = map(str.strip if self.collapse_spaces else str.rstrip, text.split("\n"))
            return with_text(document, many.sub(most, "\n".join(lines)).strip("\n"))

        return step
