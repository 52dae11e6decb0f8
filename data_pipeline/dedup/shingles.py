"""Shingles: every run of n units of a document, as a 64-bit hash. What two documents share is counted in them."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from data_pipeline.dedup.normalise import normalised
from data_pipeline.units import codepoints_of, finalize, unit_hashes, unit_starts_ends

T = TypeVar("T")
Hashes = NDArray[np.uint64]
Bounds = NDArray[np.int64]
"""[texts + 1] Where what belongs to each text begins in an array over all of them, and where the last one ends."""

BATCH = 2**17
"""Characters to work on at once: enough to forget what a call costs, few enough for the cache."""
_PIECE = 2**16
_BASE = 0x2545F4914F6CDD1B


def batches(items: Iterable[T], size: Callable[[T], int], most: int = BATCH) -> Iterator[list[T]]:
    """Group items, in their order, so that the sizes of a group sum to at most so much, or it is one item."""
    batch: list[T] = []
    total = 0
    for item in items:
        if batch and total + size(item) > most:
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += size(item) + 1
    if batch:
        yield batch


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
        out[:] = sequence_hashes(part, starts - starts[0], ends - starts[0])
    return hashes, bounds


def units_of(texts: Sequence[str], window: int = BATCH) -> tuple[Hashes, Bounds]:
    """Return the hashes of all units of all texts, normalised, [units], and their bounds."""
    forms = [normalised(text) for text in texts]
    ends = np.fromiter(accumulate(len(form) + 1 for form in forms), np.int64, len(forms))
    hashes = [np.zeros(0, np.uint64)]
    bounds = np.zeros(len(forms) + 1, np.int64)
    for starts, some in _windows("\n".join(forms), window):
        hashes.append(some)
        bounds[1:] += np.searchsorted(starts, ends)
    return np.concatenate(hashes), bounds


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
    inside = np.clip(bounds[text : end + 1], first, first + count)
    texts = np.repeat(np.arange(text, end), inside[1:] - inside[:-1])
    starts = np.arange(first, first + count) + (unit_bounds[:-1] - bounds[:-1])[texts]
    return starts, np.minimum(starts + ngram, unit_bounds[1:][texts])


def sequence_hashes(units: Hashes, starts: Bounds | slice, ends: Bounds | slice) -> Hashes:
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
