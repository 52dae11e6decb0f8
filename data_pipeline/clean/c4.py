"""The rules of C4 (Raffel et al. 2020, arXiv:1910.10683, section 2.2; lines as in the published code)."""

import re
from typing import Literal

from pydantic import NonNegativeInt, PositiveInt

from data_pipeline.clean.step import Rejected, Step, StepSettings, with_text
from data_pipeline.read import Document

_CITATION = re.compile(r"\[(?:\d*|edit|citation needed)\]")
_SENTENCE = re.compile(r"[.!?。！？][\"'”’)\]]*(?:\s+|(?<=[。！？]))(?=\S)")
_POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")


class C4(StepSettings):
    """Keeps the lines that look like sentences, and the documents that have enough of them; null turns a rule off.

    The rules are meant for English: give `languages: [en]`, or, for other languages, their own `end_marks`.
    """

    step: Literal["c4"]
    """Selects this step."""
    end_marks: tuple[str, ...] | None = (".", "?", "!", '"', "'")
    """Lines that do not end with one of these, or end with an ellipsis (...), go."""
    min_words_per_line: NonNegativeInt | None = 3
    """Lines with fewer words (between spaces) go."""
    max_word_length: PositiveInt | None = 1000
    """Lines with a longer word go."""
    min_sentences: NonNegativeInt | None = 5
    """Documents with fewer sentences, in the lines that are kept, go. A sentence ends with its line, or with a mark
    before white space, that of an abbreviation too."""
    citations: bool = True
    """Take out [1], [edit] and [citation needed], before the end of a line is looked at."""
    javascript: bool = True
    """Lines that mention JavaScript go."""
    policies: bool = True
    """Lines about cookies, terms of use and privacy policies go."""
    lorem_ipsum: bool = True
    """Documents with `lorem ipsum` in such a line go."""
    curly_brackets: bool = True
    """Documents with { in such a line go, unless it mentions JavaScript: they are source code."""

    def build(self) -> Step:
        """Filter the lines, then count the sentences."""
        return _Filter(self)


class _Filter:
    def __init__(self, settings: C4) -> None:
        self._settings = settings
        self._phrases = [  # in the order of the published code: of a line with two of them the first counts
            *[("lorem ipsum", True)] * settings.lorem_ipsum,
            *[("javascript", False)] * settings.javascript,
            *[("{", True)] * settings.curly_brackets,
            *[(policy, False) for policy in _POLICIES if settings.policies],
        ]
        """What a line may say, and whether the document goes with it."""

    def __call__(self, document: Document) -> Document | Rejected:
        lowered = document.text.lower()
        phrases = [(phrase, ends) for phrase, ends in self._phrases if phrase in lowered]
        kept = []
        for line in filter(None, map(self._shaped, document.text.splitlines())):
            found, ends = _first(phrases, line.lower()) if phrases else (None, False)
            if ends:
                return Rejected("c4", f"a line with {found}")
            if not found:
                kept.append(line)
        least = self._settings.min_sentences
        if least is not None and len(kept) < least and _sentences(kept) < least:
            return Rejected("c4", f"fewer than {least} sentences")
        return with_text(document, "\n".join(kept))

    def _shaped(self, line: str) -> str | None:
        """The line as it stays, or nothing where its words or its end are not those of a sentence."""
        told = self._settings
        line = line.strip()
        before = line
        if told.citations and "[" in line:
            line = _CITATION.sub("", line).strip()
        if told.end_marks is not None and (not line.endswith(told.end_marks) or line.endswith("...")):
            return None
        words = before.split()
        if told.min_words_per_line is not None and len(words) < told.min_words_per_line:
            return None
        longest = told.max_word_length
        if longest is not None and len(before) > longest and max(map(len, words), default=0) > longest:
            return None
        return line


def _first(phrases: list[tuple[str, bool]], line: str) -> tuple[str | None, bool]:
    return next((found for found in phrases if found[0] in line), (None, False))


def _sentences(lines: list[str]) -> int:
    """Each line ends one; within it, an end mark followed by white space, or a Chinese one, does."""
    return len(lines) + sum(len(_SENTENCE.findall(line)) for line in lines)
