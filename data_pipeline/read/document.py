"""The unit of a corpus."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple


@dataclass(slots=True)  # not frozen: that makes the making of one five times as slow, and there are billions
class Document:
    """One document and where it came from. Never changed: `dataclasses.replace` makes another."""

    text: str
    source: str
    """Path of the file, as it was given."""
    position: int
    """Number of the record in that file, from 0."""
    id: str | None = None
    """The corpus's own name for the document, where it has one."""
    offset: int = 0
    """Byte at which the record starts in the (uncompressed) file; 0 where the format has no such thing."""
    language: str | None = None
    """Its language (en, zh, ...), where the source's settings or a step say it."""
    is_html: bool = False
    """Whether the text is a page's source, as its file or its record in a crawl says."""

    @property
    def identity(self) -> str:
        """The name by which the document is told from all others: its id, or FILE:RECORD."""
        return identity_of(self.id, self.source, self.position)

    @property
    def identity_hash(self) -> int:
        """64 bits of the identity: enough to find a document again without storing every id."""
        return hash_identity(self.identity)


@dataclass(frozen=True, slots=True)
class Broken:
    """A record that could not be read: it is counted and kept aside, and the reading goes on."""

    source: str
    """Path of the file, as it was given."""
    position: int
    """Number of the record in that file, from 0."""
    offset: int
    """Byte at which the record starts in the (uncompressed) file; 0 where the format has no such thing."""
    reason: str
    """What is wrong with it, in one sentence."""
    excerpt: bytes = b""
    """How it begins: at most 200 bytes."""


class Place(NamedTuple):
    """Where to begin reading in a file: everything before this record is passed over."""

    position: int = 0
    """Number of the record."""
    offset: int = 0
    """Byte at which it starts in the (uncompressed) file, where the format has such a thing."""


BEGINNING = Place()
"""Where a file begins."""


def identity_of(id_: Any, source: str, position: int) -> str:
    """The id that a record gives, or FILE:RECORD for a record without one."""
    return f"{source}:{position}" if id_ is None else str(id_)


def hash_identity(identity: str) -> int:
    """Hash an identity to 64 bits (BLAKE2b)."""
    return int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "little")


def no_field(text_field: str, fields: Sequence[str]) -> str:
    """Say that there is no text, and what there is."""
    there = ", ".join(str(field)[:100] for field in fields[:20]) or "none"
    return f"there is no field {text_field!r} (fields here: {there}); set text_field to the one with text"
