"""Where a text has mail addresses and public network addresses."""

import re
from collections.abc import Iterator
from ipaddress import ip_address

import numpy as np
from numpy.typing import NDArray

from data_pipeline.units import Codepoints

Span = tuple[int, int]
Places = NDArray[np.int64]

_LETTERS = "A-Za-zÀ-ÖØ-öø-ɏΆΈ-ϿЀ-ҁҊ-ԯ\u0300-\u036f"
"""Of scripts that put spaces between words: in 邮箱bob@x.org Chinese letters are no part of the address."""
_LOCAL = re.compile(rf"[{_LETTERS}0-9_.+%-]+(?:['’](?=[{_LETTERS}])[{_LETTERS}0-9_.+%-]+)*")
"""What mail addresses are made of in practice, backwards: in `to=<a@b.org>` the rest that RFC 5321 allows is no part of
one, and an apostrophe is only between letters."""
_LOCAL_MARKS = ".+-%"
_LONGEST_LOCAL = 64
_LABEL = rf"(?:[{_LETTERS}0-9][{_LETTERS}0-9-]{{0,62}}|[ぁ-ヿ一-鿿가-힣]{{1,63}})"
_DOMAIN = re.compile(rf"(?:{_LABEL}\.){{1,9}}(?:[A-Za-z]{{2,24}}(?![A-Za-z0-9])|рф|中国)")
_FILES = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp", ".css", ".js")
"""No domains end so; names of files with an @ do, such as logo@2x.png."""
_USER_AND_PASSWORD = re.compile(r"[^\s/@:\[\]<>\"]+:[^\s/@\[\]<>\"]*")
_LONGEST_PASSWORD = 200
_VERSION = re.compile(r"(?:(?<![a-z])(?:v|ver|version|release|section|sec|build)[.:]? ?|版本号?[:：]? ?|§ ?)$", re.I)
_LONGEST_VERSION = 12
_IPV6 = re.compile(r"[23][0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}")


def mails(text: str) -> Iterator[Span]:
    """Mail addresses: a local part of at most 64 characters, @, and a domain name with a dot (RFC 5321, 6531).

    Of an address on the web that has a user and a password, these and the host.
    """
    at, done = text.find("@"), 0
    while at >= 0:
        domain = _DOMAIN.match(text, at + 1)
        if domain and not domain[0].lower().endswith(_FILES):
            quoted = text[domain.end() : domain.end() + 1] in ("'", "’")
            if before := _credentials(text, done, at) or _local(text, done, at, quoted):
                done = domain.end()
                yield at - before, done
        at = text.find("@", max(at + 1, done))


def _local(text: str, done: int, at: int, quoted: bool) -> int:
    """Length of the local part before the @ and behind what is `done`; 0 when there is none, or it is too long.

    An apostrophe is a quotation mark where the address is `quoted`: another one is behind it.
    """
    before = text[max(done, at - _LONGEST_LOCAL - 1) : at]
    match = _LOCAL.match(before[::-1])
    if match is None or match.end() > _LONGEST_LOCAL:
        return 0
    local = before[-match.end() :]
    if quoted:
        local = re.split("['’]", local)[-1]
    return len(local.lstrip(_LOCAL_MARKS))


def _credentials(text: str, done: int, at: int) -> int:
    """Length of `user:password` before the @ and behind `://`; 0 when there is none."""
    slashes = text.rfind("://", max(done, at - _LONGEST_PASSWORD), at)
    return at - slashes - 3 if slashes >= 0 and _USER_AND_PASSWORD.fullmatch(text, slashes + 3, at) else 0


def ipv4(text: str, codepoints: Codepoints, starts: Places, ends: Places) -> Iterator[Span]:
    """Public addresses of four runs of digits (`starts`, `ends`) with dots between; those of versions are none."""
    if len(starts) < 4:
        return
    dotted = (starts[1:] - ends[:-1] == 1) & (codepoints[ends[:-1]] == ord("."))
    for run in np.flatnonzero(dotted[2:] & dotted[1:-1] & dotted[:-2]).tolist():
        start, end = int(starts[run]), int(ends[run + 3])
        if end - start > 15 or _continued(text, start, end) or not _is_public(text[start:end]):
            continue
        if not _VERSION.search(text[max(0, start - _LONGEST_VERSION) : start]):
            yield start, end


def _continued(text: str, start: int, end: int) -> bool:
    """Whether letters, digits, or a dot with a digit go on before or after."""
    before, after = text[max(0, start - 2) : start], text[end : end + 2]
    if before[-1:] == ".":
        before = before[:-1]
    if after[:1] == ".":
        after = after[1:]
    return _is_plain(before[-1:]) or _is_plain(after[:1])


def _is_plain(character: str) -> bool:
    """Whether it is a letter or digit of ASCII, or an underscore: 是8.8.8.8 is an address, v8.8.8.8 a version."""
    return character.isascii() and (character.isalnum() or character == "_")


def ipv6(text: str, codepoints: Codepoints) -> Iterator[Span]:
    """Public addresses: all of those begin with four digits, of which the first is 2 or 3."""
    colons = np.flatnonzero(codepoints == ord(":"))
    colons = colons[colons >= 4]
    first = codepoints[colons - 4]
    for colon in colons[(first == ord("2")) | (first == ord("3"))].tolist():
        match = _IPV6.match(text, colon - 4)
        if match is None or _is_plain(text[colon - 5 : colon - 4]) or text[colon - 5 : colon - 4] == ":":
            continue
        address = match[0].rstrip(":") if not match[0].endswith("::") else match[0]
        end = match.start() + len(address)
        if not _is_plain(text[end : end + 1]) and _is_public(address):
            yield match.start(), end


def _is_public(address: str) -> bool:
    try:
        return ip_address(address).is_global
    except ValueError:
        return False
