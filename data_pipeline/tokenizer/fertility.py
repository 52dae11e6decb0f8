"""What a tokenizer makes of texts: how much of them a token holds, by language and source.

"Fertility" is tokens a word (Rust et al. 2021, arXiv:2012.15613); where words have no spaces, see characters a token.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import islice

import numpy as np

from data_pipeline.read import Document
from data_pipeline.tokenizer.tokenizer import Tokenizer

ALL = "all"
_BATCH = 256


@dataclass
class Fertility:
    """Sums over documents."""

    documents: int = 0
    bytes: int = 0
    """Of UTF-8."""
    characters: int = 0
    words: int = 0
    """Separated by white space."""
    tokens: int = 0
    """Without those that end a document."""
    part_tokens: int = 0
    """Tokens that are one byte of a character of several: the vocabulary does not know the character."""
    unknown_tokens: int = 0
    """Tokens that stand for what the vocabulary cannot spell at all."""

    def add(self, other: "Fertility") -> None:
        """Add the sums of other documents."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    @property
    def ratios(self) -> dict[str, float]:
        """What a person asks for."""
        return {
            "bytes_per_token": self.bytes / max(1, self.tokens),
            "characters_per_token": self.characters / max(1, self.tokens),
            "tokens_per_word": self.tokens / max(1, self.words),
            "part_share": self.part_tokens / max(1, self.tokens),
            "unknown_share": self.unknown_tokens / max(1, self.tokens),
        }


def measure_fertility(tokenizers: Sequence[Tokenizer], documents: Iterable[Document]) -> list[dict[str, Fertility]]:
    """For each tokenizer the sums of `all`, of `language xx` (`language ?` where unknown) and of `source PATH`."""
    tables = [_Table(tokenizer) for tokenizer in tokenizers]
    remaining = iter(documents)
    while batch := list(islice(remaining, _BATCH)):
        for table in tables:
            table.add(batch)
    return [dict(sorted(table.groups.items())) for table in tables]


class _Table:
    """One tokenizer's sums so far."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._parts = tokenizer.partial_bytes()
        self._unknown = np.array(tokenizer.unknown_ids, np.int32)
        self.groups: dict[str, Fertility] = {ALL: Fertility()}

    def add(self, documents: Sequence[Document]) -> None:
        texts = [document.text for document in documents]
        for document, ids in zip(documents, self._tokenizer.encode_batch(texts), strict=True):
            sums = self._of(document.text, ids)
            for name in (ALL, f"language {document.language or '?'}", f"source {document.source}"):
                self.groups.setdefault(name, Fertility()).add(sums)

    def _of(self, text: str, ids: np.ndarray) -> Fertility:
        return Fertility(
            documents=1,
            bytes=len(text.encode("utf-8", "replace")),
            characters=len(text),
            words=len(text.split()),
            tokens=len(ids),
            part_tokens=int(self._parts[ids].sum()),
            unknown_tokens=int(np.isin(ids, self._unknown).sum()),
        )
