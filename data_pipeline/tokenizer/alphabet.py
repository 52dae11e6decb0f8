"""Which characters a vocabulary has room for."""

from collections import Counter
from collections.abc import Iterable

COVERAGE = 0.9995
"""Share of the text's characters that the alphabet covers; the rarest ones are left to bytes or [UNK]."""


def frequent_characters(texts: Iterable[str], limit: int) -> tuple[list[str], list[str]]:
    """The most frequent characters, at most `limit`, and the others."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(text)
    ranked = sorted(counts, key=lambda character: (-counts[character], character))
    covered = kept = 0
    while kept < min(limit, len(ranked)) and covered < COVERAGE * counts.total():
        covered += counts[ranked[kept]]
        kept += 1
    return ranked[:kept], ranked[kept:]
