"""Characters that nobody sees, out of the text."""

import re
from typing import Literal

from data_pipeline.clean.step import Step, StepSettings, with_text
from data_pipeline.read import Document

_CONTROLS = "\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f"  # without those that are white space
_ZERO_WIDTH = "\xad\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb"
_PRIVATE = "\ue000-\uf8ff\U000f0000-\U000ffffd\U00100000-\U0010fffd"
_HALVES = re.compile("[\ud800-\udfff]")
_ESCAPES = re.compile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b\n]*(?:\x07|\x1b\\\\)|[ -/]+[0-~])")
"""Of ECMA-48: colours and the like, what a terminal is told (its title, a link), sets of characters."""


class Control(StepSettings):
    """Takes out control characters, also whole terminal escapes; half surrogate pairs become U+FFFD."""

    step: Literal["control"]
    """Selects this step."""
    zero_width: bool = True
    """Take out also characters without width: byte order marks, soft hyphens, marks of direction, zero-width spaces
    (not the joiners that Persian, Indian scripts and emoji need)."""
    private_use: bool = False
    """Take out also characters of the private-use areas, such as the icons of a font."""

    def build(self) -> Step:
        """Substitute only what is there."""
        out = re.compile(f"[{_CONTROLS}{_ZERO_WIDTH * self.zero_width}{_PRIVATE * self.private_use}]")

        def step(document: Document) -> Document:
            text = document.text
            if "\x1b" in text:
                text = _ESCAPES.sub("", text)
            text = out.sub("", text)
            return with_text(document, text if text.isascii() else _HALVES.sub("\ufffd", text))

        return step
