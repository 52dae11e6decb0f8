"""Candidates confirmed: the exact Jaccard similarity of their sets of shingles."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from data_pipeline.dedup.near import EDGE
from data_pipeline.dedup.rows import RowFile, Rows, Stretch, each_once, merge, without_repeats, write_rows
from data_pipeline.dedup.settings import NearDuplicates
from data_pipeline.dedup.shingles import Hashes, batches, shingle_hashes

CONFIRMED = np.dtype([("later", "<u8"), ("earlier", "<u8"), ("jaccard", "<f4")])
"""A document to drop, the one that it resembles, and how much."""

_OVERHEAD = 256
"""Bytes that a view of an array and its place in a dictionary take."""


class Texts(Protocol):
    """Where the texts of documents are."""

    def read(self, numbers: np.ndarray) -> Iterator[tuple[int, str]]:
        """Yield (number, text) for sorted unique uint64 numbers, in that order; may be left before its end."""
        ...


def confirm(
    pairs: Sequence[Path], first: int, end: int, texts: Texts, near: NearDuplicates, memory: int, out: Path
) -> int:
    """Write the near duplicates among documents `first` to `end` - 1 (.npy of CONFIRMED, sorted) to `out`.

    `pairs` are all files of `find_candidates`. One row (later, earlier, jaccard) for each document to drop, with its
    earliest partner at near.threshold or above. Returns how many. Beside `memory` it holds one document and its
    shingles, as large as the largest is.
    """
    files = [RowFile(path) for path in pairs]
    stretches = [Stretch(file, file.find(first), file.find(end)) for file in files]
    blocks = _whole_groups(each_once(merge(stretches, memory // 4)))
    return write_rows(
        out, CONFIRMED, (found for block in blocks for found in _confirm(block, texts, near, memory // 2))
    )


def _whole_groups(blocks: Iterable[Rows]) -> Iterator[Rows]:
    """Cut blocks of edges so that all edges of a document are in one."""
    held = np.empty(0, EDGE)
    for block in blocks:
        rows = np.concatenate([held, block])
        cut = int(np.searchsorted(rows["later"], rows["later"][-1]))
        held = rows[cut:]
        if cut:
            yield rows[:cut]
    if len(held):
        yield held


def _confirm(edges: Rows, texts: Texts, near: NearDuplicates, memory: int) -> Iterator[Rows]:
    """Yield the confirmed of some documents, as many at once as their shingles fit into the memory."""
    while len(edges):
        later = _some_shingles(np.unique(edges["later"]), texts, near.ngram, memory)
        cut = int(np.searchsorted(edges["later"], np.uint64(max(later)), "right"))
        yield _earliest_partners(edges[:cut], later, texts, near)
        edges = edges[cut:]
        del later  # before there are others


def _some_shingles(numbers: np.ndarray, texts: Texts, ngram: int, memory: int) -> dict[int, Hashes]:
    """Return the shingles of the first documents: of at least one, and of no more than the memory is for."""
    found: dict[int, Hashes] = {}
    # One array for all: between many small ones the heap would keep holes.
    store = np.empty(memory // 8, np.uint64)
    used = 0
    for number, shingles in _shingle_sets(texts.read(numbers), ngram):
        used += len(shingles) + _OVERHEAD // 8
        if used > len(store):
            return found or {number: shingles}
        found[number] = store[used - len(shingles) : used]
        found[number][:] = shingles
    return found


def _earliest_partners(edges: Rows, later: dict[int, Hashes], texts: Texts, near: NearDuplicates) -> Rows:
    """Compare each document with its candidates, the earliest first, until one is similar enough."""
    edges = edges[np.lexsort((edges["later"], edges["earlier"]))]
    partners, begins = np.unique(edges["earlier"], return_index=True)
    ends = np.append(begins[1:], len(edges))
    found: dict[int, tuple[int, float]] = {}
    sets = _shingle_sets(texts.read(partners), near.ngram)
    for (partner, shingles), begin, end in zip(sets, begins, ends, strict=True):
        for number in edges["later"][begin:end].tolist():
            if number not in found and (similarity := jaccard(shingles, later[number])) >= near.threshold:
                found[number] = (partner, similarity)
    return np.array([(number, *found[number]) for number in sorted(found)], CONFIRMED)


def jaccard(one: Hashes, other: Hashes) -> float:
    """Return the share of two sets, sorted arrays without repeats, that they have in common; of empty ones 0."""
    if not len(one) or not len(other):
        return 0.0
    places = np.searchsorted(one, other)
    common = int(np.count_nonzero(one[np.minimum(places, len(one) - 1)] == other))
    return common / (len(one) + len(other) - common)


def _shingle_sets(documents: Iterable[tuple[int, str]], ngram: int) -> Iterator[tuple[int, Hashes]]:
    """Yield each document's set of shingles, sorted, without repeats."""
    for batch in batches(documents, _characters):
        hashes, bounds = shingle_hashes([text for _, text in batch], ngram)
        for (number, _), begin, end in zip(batch, bounds[:-1], bounds[1:], strict=True):
            yield number, without_repeats(np.sort(hashes[begin:end]))


def _characters(document: tuple[int, str]) -> int:
    return len(document[1])
