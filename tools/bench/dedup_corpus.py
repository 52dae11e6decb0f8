"""A synthetic corpus of any size whose duplicates are known: a pure function of its size, made piece by piece."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from data_pipeline.mixture.permutation import Permutation
from data_pipeline.units import finalize

NGRAM = 5
EXACT = 1.0
SHARES = {EXACT: 0.05, 0.95: 0.025, 0.9: 0.025, 0.85: 0.025, 0.8: 0.025, 0.7: 0.02, 0.6: 0.02, 0.5: 0.02}
"""Of the corpus: copies, by their least similarity to what they were copied from. All others resemble nothing."""
_SHORTEST, _LONGEST = 60, 200
_WORDS = 50_000
_TABLE_BITS = 20
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Planted:
    """The copies of one least similarity."""

    similarity: float
    """At least; 1: equal but for capitals and spaces."""
    later: Integers
    """Of each copy and its original, the one that comes later: its position in the corpus."""
    exact: NDArray[np.float64]
    """[copies] The exact similarity of each."""


class Corpus:
    """Documents of 60 to 200 words of a Zipf-distributed vocabulary, with copies of some, in random order."""

    def __init__(self, documents: int) -> None:
        """Plan a corpus; texts are made when they are asked for."""
        self.documents = documents
        self._counts = {similarity: int(share * documents) for similarity, share in SHARES.items()}
        self._originals = documents - sum(self._counts.values())
        self._order = Permutation(documents, "corpus for deduplication")

    def planted(self) -> Iterator[Planted]:
        """Yield what is known of the copies, the most similar first."""
        first = 0
        for similarity, count in self._counts.items():
            originals = np.arange(first, first + count)
            first += count
            copies = originals + self._originals
            later = np.maximum(self._order.inverse(originals), self._order.inverse(copies))
            shingles = self._lengths(originals) - NGRAM + 1
            changed = _words_to_change(shingles, np.full(count, similarity))
            yield Planted(similarity, later, (shingles - changed) / (shingles + changed))

    def texts(self, first: int, end: int) -> list[str]:
        """Return the texts at positions first..end-1."""
        entities = self._order(np.arange(first, end))
        originals = np.where(entities < self._originals, entities, entities - self._originals)
        classes = np.repeat([*self._counts, 0.0], [*self._counts.values(), self._originals])
        similarities = np.where(entities < self._originals, 0.0, classes[originals])
        lengths = self._lengths(originals)
        changed = np.where(
            (similarities > 0) & (similarities < EXACT), _words_to_change(lengths - NGRAM + 1, similarities), 0
        )
        words = self._vocabulary[self._ranks(originals, lengths, changed)].tolist()
        ends = np.cumsum(lengths).tolist()
        texts = [" ".join(words[begin:end]) for begin, end in zip([0, *ends], ends, strict=False)]
        return [
            _disguised(text) if similarity == EXACT else text
            for text, similarity in zip(texts, similarities.tolist(), strict=True)
        ]

    def _lengths(self, originals: Integers) -> Integers:
        spread = finalize(originals.astype(np.uint64) ^ _GOLDEN) % np.uint64(_LONGEST - _SHORTEST + 1)
        return _SHORTEST + spread.astype(np.int64)

    def _ranks(self, originals: Integers, lengths: Integers, changed: Integers) -> Integers:
        """[words of all documents] Each word's rank: drawn by the original and the place; if changed, once more."""
        places = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        keys = finalize(np.repeat(finalize(originals.astype(np.uint64)), lengths) + places.astype(np.uint64) * _GOLDEN)
        ranks = self._drawn(keys)
        again = np.flatnonzero(places >= np.repeat(lengths - changed, lengths))
        others = self._drawn(finalize(keys[again] + np.uint64(1)))
        ranks[again] = np.where(others == ranks[again], (others + 1) % _WORDS, others)
        return ranks

    def _drawn(self, keys: NDArray[np.uint64]) -> Integers:
        return self._zipf[(keys >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)]

    @cached_property
    def _zipf(self) -> Integers:
        """[2^20] Ranks, each as often as Zipf and Mandelbrot say: in proportion to 1 / (rank + 2.7)."""
        shares = np.cumsum(1 / (np.arange(_WORDS) + 2.7))
        places = (np.arange(2**_TABLE_BITS) + 0.5) / 2**_TABLE_BITS
        return np.searchsorted(shares / shares[-1], places).astype(np.int64)

    @cached_property
    def _vocabulary(self) -> NDArray[np.object_]:
        """[50,000] Distinct words of 2 to 13 letters, the frequent ones shorter."""
        generator = np.random.default_rng(0)
        words: dict[str, None] = {}
        while len(words) < _WORDS:
            length = 2 + min(int(np.log2(len(words) + 1) / 2.2) + int(generator.integers(0, 5)), 11)
            words["".join(chr(97 + letter) for letter in generator.integers(0, 26, length).tolist())] = None
        return np.array(list(words), object)


def _words_to_change(shingles: Integers, similarities: NDArray[np.float64]) -> Integers:
    """How many words at the end can change, for a similarity that is just not lower.

    Changing the last r words changes the last r of s shingles: s - r of s + r are left in common.
    """
    return np.floor(shingles * (1 - similarities) / (1 + similarities) + 1e-9).astype(np.int64)


def _disguised(text: str) -> str:
    """The same text to whoever compares without capitals and spaces."""
    return f"  {text.title()}\n"
