"""Text that was decoded with the wrong encoding, decoded again."""

import functools
import re
from collections.abc import Iterable
from typing import Literal

from data_pipeline.clean.step import Step, StepSettings, with_text
from data_pipeline.read import Document

_ENCODINGS = ("latin-1", "cp1252", "cp1251", "cp1250", "cp1253", "cp1254", "cp1257", "iso-8859-2", "mac-roman", "cp437")
"""In these UTF-8 is misread, as ftfy knows it."""
_LATIN = ("latin-1", "cp1250", "cp1257")
_LEADS, _FOLLOWING = range(0xC2, 0xF5), range(0x80, 0xC0)
_BEFORE_SPACE = (0xC2, 0xC3, 0xC5, 0xCE, 0xD0, 0xD9, 0xE2, 0xE3, 0xF0)
"""First bytes after which a no-break space may have become a plain one."""
_LOST = "?\x1a\ufffd"
"""What stands where a byte was lost."""


class Encoding(StepSettings):
    """Repairs mojibake (`schÃ¶n` becomes `schön`) with ftfy; other things that ftfy does are other steps here.

    That is UTF-8 which was read in an encoding of one byte a character (cp1252, latin-1, cp1251, ...), also twice. What
    was read as GBK, Big5 or Shift-JIS stays: bytes are lost in it. So does what never was UTF-8: a source has
    `encoding` for that.
    ftfy sees only lines with two characters in a row that could be UTF-8 misread: clean text costs one fast search.
    """

    step: Literal["encoding"]
    """Selects this step."""

    def build(self) -> Step:
        """Look for what could be mojibake, and give those lines to ftfy."""
        from ftfy import fix_encoding

        suspicious = gate().search

        def step(document: Document) -> Document:
            text = document.text
            if text.isascii() or not suspicious(text):
                return document
            lines = text.split("\n")
            return with_text(document, "\n".join(fix_encoding(line) if suspicious(line) else line for line in lines))

        return step


@functools.cache
def gate() -> re.Pattern[str]:
    """What text that ftfy would repair has in it."""
    first, following = _decoded(_LEADS, _ENCODINGS), _decoded(_FOLLOWING, _ENCODINGS)
    spaced, controls = _decoded(_BEFORE_SPACE, _LATIN), "\x80-\x9f"
    # One class first: the search for it is a tight loop.
    return re.compile(f"[{first}{controls}](?:[{following}{_LOST}]|(?<=[{spaced}]) |(?<=[{controls}]))")


def _decoded(values: Iterable[int], encodings: tuple[str, ...]) -> str:
    """All characters that these bytes stand for in some of the encodings, for use in a character class."""
    seen = {character for name in encodings for value in values for character in bytes([value]).decode(name, "ignore")}
    return re.escape("".join(sorted(seen)))
