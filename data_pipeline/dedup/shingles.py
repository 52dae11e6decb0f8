"""Shingles: every run of n units of a document, as a 64-bit hash. What two documents share is counted in them."""

import functools
from collections.abc import Iterator, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dedup.normalise import normalised
from data_pipeline.units import codepoints_of, finalize, unit_hashes, unit_starts_ends

Hashes = NDArray[np.uint64]
Bounds = NDArray[np.int64]
"""[texts + 1] Where what belongs to each text begins in an array over all of them, and where the last one ends."""

BATCH = 2**17
"""Characters to work on at once: enough to forget what a call costs, few enough for the cache."""
_PIECE = 2**16
_BASE = 0x2545F4914F6CDD1B


def batches(texts: Sequence[str], characters: int = BATCH) -> Iterator[slice]:
    """Cut a list into stretches of at most so many characters, or of one text."""
    first = size = 0
    for row, text in enumerate(texts):
        if row > first and size + len(text) > characters:
            yield slice(first, row)
            first, size = row, 0
        size += len(text)
    if first < len(texts):
        yield slice(first, len(texts))


def shingle_hashes(texts: Sequence[str], ngram: int) -> tuple[Hashes, Bounds]:
    """Return the hashes of all shingles of all texts, [shingles], and their bounds.

    A text with fewer than `ngram` units has one shingle of all its units, one without units has none. A text's hashes
    do not depend on the others. Call it on `batches`: it holds some 30 bytes a unit.
    """
    units, unit_bounds = units_of(texts)
    counts = np.diff(unit_bounds)
    bounds = _bounds(np.where(counts > 0, np.maximum(counts - ngram + 1, 1), 0))
    hashes = np.empty(bounds[-1], np.uint64)
    for first in range(0, len(hashes), _PIECE):
        out = hashes[first : first + _PIECE]
        starts, ends = _places(first, len(out), bounds, unit_bounds, ngram)
        part = units[starts[0] : ends[-1]]
        out[:] = _sequence_hashes(part, starts - starts[0], ends - starts[0])
    return hashes, bounds


def units_of(texts: Sequence[str], window: int = BATCH) -> tuple[Hashes, Bounds]:
    """Return the hashes of all units of all texts, normalised, [units], and their bounds."""
    forms = [normalised(text) for text in texts]
    ends = np.fromiter(accumulate(len(form) + 1 for form in forms), np.int64, len(forms))
    found = list(_windows("\n".join(forms), window))
    starts = np.concatenate([np.zeros(0, np.int64), *(starts for starts, _ in found)])
    hashes = np.concatenate([np.zeros(0, np.uint64), *(hashes for _, hashes in found)])
    return hashes, np.concatenate([[0], np.searchsorted(starts, ends)])


def _windows(text: str, size: int) -> Iterator[tuple[NDArray[np.int64], Hashes]]:
    """Yield where units start, and their hashes, without spreading a long text into code points all at once."""
    begin, length = 0, size
    while begin < len(text):
        codepoints = codepoints_of(text[begin : begin + length])
        starts, ends = unit_starts_ends(codepoints)
        step = len(codepoints)
        if begin + step < len(text) and len(ends) and ends[-1] == step:
            # The last unit may go on behind the window: it begins the next one, which must be larger if it is alone.
            step = int(starts[-1])
            starts, ends = starts[:-1], ends[:-1]
        if len(starts):
            yield starts + begin, unit_hashes(codepoints, starts, ends)
        begin, length = begin + step, size if step else 2 * length


def _places(first: int, count: int, bounds: Bounds, unit_bounds: Bounds, ngram: int) -> tuple[Bounds, Bounds]:
    """Return between which units the shingles `first` to `first + count` lie."""
    text = int(np.searchsorted(bounds, first, "right")) - 1
    end = int(np.searchsorted(bounds, first + count))
    counts = np.diff(np.clip(bounds[text : end + 1], first, first + count))
    texts = np.repeat(np.arange(text, end), counts)
    starts = np.arange(first, first + count) + (unit_bounds[:-1] - bounds[:-1])[texts]
    return starts, np.minimum(starts + ngram, unit_bounds[1:][texts])


def _sequence_hashes(units: Hashes, starts: Bounds, ends: Bounds) -> Hashes:
    """Hash units[start:end]: a polynomial modulo 2^64 by prefix sums, shifted back, then a finalizer."""
    powers, inverses = _powers(max(2 * _PIECE, 1 << (len(units) - 1).bit_length()))
    sums = np.zeros(len(units) + 1, np.uint64)
    np.cumsum(units * powers[: len(units)], out=sums[1:])
    return finalize((sums[ends] - sums[starts]) * inverses[starts])


@functools.lru_cache(maxsize=1)
def _powers(count: int) -> tuple[Hashes, Hashes]:
    """[count] Powers of an odd base modulo 2^64, and of its inverse."""
    return _powers_of(_BASE, count), _powers_of(pow(_BASE, -1, 2**64), count)


def _powers_of(base: int, count: int) -> Hashes:
    powers = np.full(count, base, np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


def _bounds(counts: NDArray[np.int64]) -> Bounds:
    return np.concatenate([[0], np.cumsum(counts)])
