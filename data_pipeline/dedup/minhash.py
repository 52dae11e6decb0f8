"""MinHash: a few hashes of a document from which its resemblance to others is seen (Broder 1997).

Hash i of a document is the least of a_i * x mod 2^32 over its shingles' hashes x, with a_i odd. As x is random, each of
the shingles of two documents is equally likely to be the least, so theirs are equal with the probability of their
Jaccard similarity. One permutation with densification (Shrivastava 2017) would be cheaper, and finds fewer: a short
document has fewer shingles than there are hashes.
"""

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dedup.settings import NearDuplicates
from data_pipeline.dedup.shingles import Bounds, Hashes, batches, shingle_hashes
from data_pipeline.units import finalize

_PIECE = 2**17
"""Shingles to multiply at once: they and their products stay in the cache."""
_STEP = np.uint64(0x9E3779B97F4A7C15)


def band_hashes(texts: Sequence[str], near: NearDuplicates) -> Hashes:
    """Return uint64 [n, bands]; a document's row depends on nothing but its text and the settings.

    Documents that agree in a band's `rows` hashes have the same number there. All documents without units agree.
    """
    out = np.empty((len(texts), near.bands), np.uint64)
    factors = _factors(near.bands * near.rows, near.seed)
    done = 0
    for batch in batches(texts, len):
        hashes, bounds = shingle_hashes(batch, near.ngram)
        rows = slice(done, done := done + len(batch))
        out[rows] = _fold(_minima(hashes, bounds, factors).reshape(near.bands, near.rows, -1))
    return out


def _minima(hashes: Hashes, bounds: Bounds, factors: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Return [factors, documents]: the least product of each document's hashes; 2^32 - 1 where it has none."""
    least = np.full((len(factors), len(bounds) - 1), 2**32 - 1, np.uint32)
    filled = np.flatnonzero(np.diff(bounds))
    begins = bounds[filled]
    for first in range(0, len(hashes), _PIECE):
        upper = (hashes[first : first + _PIECE] >> np.uint64(32)).astype(np.uint32)
        inside = slice(np.searchsorted(begins, first, "right") - 1, np.searchsorted(begins, first + len(upper)))
        starts = np.maximum(begins[inside] - first, 0)
        products = np.empty_like(upper)
        for row, factor in zip(least, factors, strict=True):
            np.multiply(upper, factor, out=products)
            found = np.minimum.reduceat(products, starts)
            row[filled[inside]] = np.minimum(row[filled[inside]], found)
    return least


def _fold(minima: NDArray[np.uint32]) -> Hashes:
    """Turn [bands, rows, documents] into [documents, bands]: one hash for all rows of a band."""
    bands = np.zeros((minima.shape[0], minima.shape[2]), np.uint64)
    for row in range(minima.shape[1]):
        bands = finalize((bands + _STEP) ^ minima[:, row])
    return bands.T


@functools.lru_cache(maxsize=4)
def _factors(count: int, seed: int) -> NDArray[np.uint32]:
    """[count] Odd numbers, drawn by SHAKE-128 from the seed."""
    stream = hashlib.shake_128(f"minhash {seed}".encode()).digest(4 * count)
    return np.frombuffer(stream, "<u4").astype(np.uint32) | np.uint32(1)
