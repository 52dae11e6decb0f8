"""N-grams of units that a text has more than once."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_pipeline.clean.view import View

_ODD = np.uint64(0x9E3779B97F4A7C15)


class Repeated(NamedTuple):
    """The n-grams of a text that it has more than once."""

    n: int
    places: NDArray[np.int64]
    """[found] First unit of each, in the order of the text."""
    groups: NDArray[np.int64]
    """[found] The same number for the same n-gram."""


def too_repetitive(view: View, tops: Mapping[int, float], duplicates: Mapping[int, float]) -> str | None:
    """Why the text repeats itself too much, if it does: for n units, the greatest shares of its characters in the
    commonest n-gram, and in n-grams that are an earlier one again."""
    size = len(view.text)
    least, last_top = min(duplicates.values(), default=1.0), max(tops, default=0)
    for repeated in repeated_ngrams(view, max([*tops, *duplicates], default=1)):
        top, duplicate = tops.get(repeated.n), duplicates.get(repeated.n, 1.0)
        if top is not None and _top(view, repeated) > top * size:
            return f"more than {top:g} of the characters are in one {repeated.n}-gram"
        covered = _covered(view, repeated)
        if covered > duplicate * size and _again(view, repeated) > duplicate * size:
            return f"more than {duplicate:g} of the characters are in duplicate {repeated.n}-grams"
        if repeated.n >= last_top and covered <= least * size:
            return None  # longer n-grams cover no more
    return None


def repeated_ngrams(view: View, longest: int) -> Iterator[Repeated]:
    """For n from 2 on, the n-grams that come more than once, until there are none.

    An n-gram is repeated only where its first n-1 units are: each n looks only where the one before found something.
    """
    hashes = view.hashes
    places, grams = np.arange(len(hashes)), hashes
    for n in range(2, longest + 1):
        if len(places) and places[-1] + n > len(hashes):
            places, grams = places[:-1], grams[:-1]
        grams = grams * _ODD + hashes[places + (n - 1)]
        more, groups = _groups(grams)
        if not len(more):
            return
        places, grams = places[more], grams[more]
        yield Repeated(n, places, groups)


def _groups(grams: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """[repeated] Which of the hashes are there more than once, and [repeated] the same number for the same hash."""
    order = grams.argsort()
    ordered = grams[order]
    same = ordered[1:] == ordered[:-1]
    if not same.any():
        return order[:0], order[:0]
    more, first = np.zeros(len(grams), bool), np.ones(len(grams), bool)
    more[1:] = same
    more[:-1] |= same
    first[1:] = ~same
    places = order[more]
    groups = first.cumsum()[more]
    again = places.argsort()
    return places[again], groups[again]


def _top(view: View, repeated: Repeated) -> int:
    """Characters in the commonest n-gram (the first of them, in a tie), with one between units that are not joined:
    words have a space there, Chinese has none."""
    counts = np.bincount(repeated.groups)
    of_each = counts[repeated.groups]
    most = int(of_each.max())
    first = int(repeated.places[np.argmax(of_each == most)])
    starts, ends = view.spans
    starts, ends = starts[first : first + repeated.n], ends[first : first + repeated.n]
    return most * int((ends - starts).sum() + np.count_nonzero(starts[1:] > ends[:-1]))


def _covered(view: View, repeated: Repeated) -> int:
    """Characters in repeated n-grams, also in the first of each: no fewer than `_again` counts."""
    starts, ends = view.spans
    begin, end = starts[repeated.places], ends[repeated.places + (repeated.n - 1)]
    end[:-1] = np.minimum(end[:-1], begin[1:])
    return int((end - begin).sum())


def _again(view: View, repeated: Repeated) -> int:
    """Characters in n-grams that were there before; after one of them, the search goes on behind it."""
    starts, ends = view.spans
    lengths = (ends[repeated.places + repeated.n - 1] - starts[repeated.places]).tolist()
    seen: set[int] = set()
    free = characters = 0
    for place, group, length in zip(repeated.places.tolist(), repeated.groups.tolist(), lengths, strict=True):
        if place < free:
            continue
        if group in seen:
            characters += length
            free = place + repeated.n
        else:
            seen.add(group)
    return characters
