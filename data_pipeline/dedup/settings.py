"""What counts as a duplicate, and as contamination."""

from typing import Annotated

from pydantic import Field, PositiveInt, model_validator

from data_pipeline.settings import Place, Settings

_LEAST_COMPARED = 0.5


class NearDuplicates(Settings):
    """MinHash with locality-sensitive hashing (Broder 1997; Leskovec, Rajaraman and Ullman, ch. 3), then exact Jaccard.

    Two documents whose sets of shingles have similarity s share a band with probability 1 - (1 - s^rows)^bands.
    """

    threshold: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Least Jaccard similarity, computed exactly, at which the later document is dropped."""
    ngram: PositiveInt = 5
    """Units in a shingle: a unit is a word, or one character of a script without spaces."""
    bands: PositiveInt = 14
    """Bands: more of them find more pairs, at more cost."""
    rows: PositiveInt = 8
    """Hashes in a band: more of them make candidates rarer."""
    seed: int = 1
    """Seed of the hash functions."""

    def compared(self, similarity: float) -> float:
        """Return the probability that two documents of this similarity are compared at all."""
        return 1 - (1 - similarity**self.rows) ** self.bands

    @model_validator(mode="after")
    def _bands_reach_the_threshold(self) -> "NearDuplicates":
        share = self.compared(self.threshold)
        if share < _LEAST_COMPARED:
            rows = max((r for r in range(1, self.rows) if 1 - (1 - self.threshold**r) ** self.bands >= 0.9), default=0)
            remedy = f"set rows: {rows}, or more bands" if rows else f"take fewer rows and more bands than {self.bands}"
            raise ValueError(
                f"of documents as similar as threshold={self.threshold}, {self.bands} bands of {self.rows} rows would "
                f"compare only {share:.0%}; {remedy}"
            )
        return self


class Deduplicate(Settings):
    """Of each group of duplicates the first, in the order of the sources, is kept."""

    exact: bool = True
    """Drop documents whose text, normalised, is that of an earlier one."""
    near: NearDuplicates | None = None
    """Drop documents that resemble an earlier one; unset: only equal ones go."""


class Decontaminate(Settings):
    """Drop documents that share a long n-gram with evaluation data."""

    files: Annotated[list[Place], Field(min_length=1)]
    """Files of evaluation data, of any format that can be read; every text in their records counts, in any field."""
    ngram: PositiveInt = 13
    """Units (words, or characters of a script without spaces) that must be the same, in a row."""
    shortest: PositiveInt = 8
    """A text of fewer than `ngram` units must be there as a whole; one of fewer than this says too little and is passed
    over, such as an answer `yes` (13 and 8 are GPT-3's)."""
