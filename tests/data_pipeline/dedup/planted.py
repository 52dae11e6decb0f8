"""Texts with duplicates whose similarity is known."""

import numpy as np


def random_words(generator: np.random.Generator, count: int) -> list[str]:
    """Words of a vocabulary so large that two texts share no shingle by chance."""
    return [f"w{number:x}" for number in generator.integers(0, 2**40, count).tolist()]


def near_copy(words: list[str], jaccard: float, ngram: int, generator: np.random.Generator) -> list[str]:
    """Replace so many words at the end that the similarity becomes `jaccard`, or the nearest that there is.

    Replacing the last r of the words changes the last r of the s shingles: (s - r) / (s + r) are left in common.
    """
    shingles = len(words) - ngram + 1
    changed = round(shingles * (1 - jaccard) / (1 + jaccard))
    return words[: len(words) - changed] + random_words(generator, changed)
