"""Personal data, masked."""

import re
from collections.abc import Callable
from typing import Literal

from data_pipeline.clean.pii_addresses import ipv4, ipv6, mails
from data_pipeline.clean.pii_numbers import candidates, card, chinese_id, digit_runs, ibans, narrow, phone
from data_pipeline.clean.step import Step, StepSettings, with_text
from data_pipeline.clean.view import view_of
from data_pipeline.read import Document

_DIGIT = re.compile("[0-9０-９]")
Kinds = list[tuple[Callable[[str, int], tuple[int, int] | None], str]]
_ROUNDS = 4
"""A masked number may leave another one standing free; more rounds than this find nothing new in practice."""


class Pii(StepSettings):
    """Puts a placeholder where a text names a person's address or number; null leaves that kind alone.

    Numbers with a check digit count only when it is right; network addresses only when they are public.
    """

    step: Literal["pii"]
    """Selects this step."""
    mail: str | None = "[EMAIL]"
    """Instead of mail addresses."""
    iban: str | None = "[IBAN]"
    """Instead of international bank account numbers (length by country, ISO 7064 MOD 97-10)."""
    card: str | None = "[CARD]"
    """Instead of payment card numbers: 13 to 19 digits with a known beginning, Luhn's check digit right."""
    chinese_id: str | None = "[ID]"
    """Instead of Chinese identity numbers (18 digits with a date, ISO 7064 MOD 11-2)."""
    ip: str | None = "[IP]"
    """Instead of public IPv4 and IPv6 addresses."""
    phone: str | None = "[PHONE]"
    """Instead of phone numbers: international (+...), North American and Chinese ones."""

    def build(self) -> Step:
        """Look for an @ and for digits first: text without them costs nearly nothing."""

        def step(document: Document) -> Document:
            text = document.text
            for _ in range(_ROUNDS):
                if self.mail is not None and "@" in text:
                    text = _masked(text, [(*span, self.mail) for span in mails(text)])
                found = self._find(text)
                if not found:
                    break
                text = _masked(text, found)
            return with_text(document, text)

        return step

    def _find(self, text: str) -> list[tuple[int, int, str]]:
        """Numbers and network addresses: (start, end, mask)."""
        if not _DIGIT.search(text):
            return []
        text, codepoints = narrow(text, view_of(text).codepoints)
        starts, ends = digit_runs(codepoints)
        found = []
        if self.ip is not None:
            found += [(*span, self.ip) for span in (*ipv4(text, codepoints, starts, ends), *ipv6(text, codepoints))]
        if self.iban is not None:
            found += [(*span, self.iban) for span in ibans(text, codepoints, starts, ends)]
        kinds = self._numbers()
        for start in candidates(codepoints, starts, ends) if kinds else ():
            found += _first(text, start, kinds)
        return found

    def _numbers(self) -> Kinds:
        wanted = ((chinese_id, self.chinese_id), (card, self.card), (phone, self.phone))
        return [(find, mask) for find, mask in wanted if mask is not None]


def _masked(text: str, found: list[tuple[int, int, str]]) -> str:
    """The text with masks; of spans that overlap the one that begins first counts, then the longer one."""
    parts, done = [], 0
    for start, end, mask in sorted(found, key=lambda span: (span[0], -span[1])):
        if start >= done:
            parts += [text[done:start], mask]
            done = end
    return "".join([*parts, text[done:]]) if parts else text


def _first(text: str, start: int, kinds: Kinds) -> list[tuple[int, int, str]]:
    for find, mask in kinds:
        if span := find(text, start):
            return [(*span, mask)]
    return []
