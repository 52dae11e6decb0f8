"""Documents that evaluation data is in, by n-grams (as for GPT-3: Brown et al. 2020, arXiv:2005.14165, appendix C)."""

from collections import defaultdict
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from data_pipeline.clean.step import Rejected
from data_pipeline.clean.view import view_of
from data_pipeline.dedup.evaluation import texts_of
from data_pipeline.dedup.settings import Decontaminate
from data_pipeline.dedup.shingles import Hashes, sequence_hashes
from data_pipeline.errors import DataError
from data_pipeline.normal_form import normal_form
from data_pipeline.read import Document, expand, shown

STEP = "decontaminate"
"""Name of the step in reports."""
_PIECE = 2**16


class Decontaminator:
    """Rejects a document that has n units in a row which a text of the evaluation data has too.

    Upper and lower case are the same, and so is whatever separates units. A text of fewer than n units is looked for as
    a whole; one of fewer than `shortest` says too little, and is passed over.
    """

    def __init__(self, settings: Decontaminate) -> None:
        """Read the evaluation data. DataError when a file cannot be read, or all are too short to be looked for."""
        self.files = [shown(path) for path in expand(settings.files)]
        """Names of the evaluation files."""
        self._shortest = min(settings.shortest, settings.ngram)
        begins: list[Hashes] = []
        found: dict[int, list[tuple[Hashes, int]]] = defaultdict(list)
        for number, path in enumerate(expand(settings.files)):
            for text in texts_of(path):
                units = _units(text)
                length = min(settings.ngram, len(units))
                if length >= self._shortest:
                    grams = _ngrams(units, length)
                    found[length].append((grams, number))
                    begins.append(_ngrams(units, self._shortest)[: len(grams)])
        if not found:
            raise DataError(
                f"the evaluation data ({', '.join(self.files)}) has no text of {settings.shortest} units or more; "
                "set a smaller decontaminate.shortest, or leave decontaminate out."
            )
        self._begins = _Begins(np.concatenate(begins))
        self._tables = [_Table(length, lists) for length, lists in sorted(found.items(), reverse=True)]

    def __call__(self, document: Document) -> Document | Rejected:
        """Let the document through, or name the file with which it has something in common."""
        units = _units(document.text)
        places = self._begins.places(_ngrams(units, self._shortest))
        for table in self._tables if len(places) else ():
            starts = places[places + table.length <= len(units)]
            file = table.file_of(sequence_hashes(units, starts, starts + table.length))
            if file is not None:
                return Rejected(STEP, f"text of {self.files[file]}")
        return document


def _units(text: str) -> Hashes:
    """[units] Their hashes; composed and decomposed characters are the same, and so are upper and lower case."""
    return view_of(normal_form("NFC", text)).folded_hashes


def _ngrams(units: Hashes, n: int) -> Hashes:
    """[units - n + 1] The hash of every n units in a row."""
    grams = np.empty(max(0, len(units) - n + 1), np.uint64)
    for first in range(0, len(grams), _PIECE):
        count = min(_PIECE, len(grams) - first)
        part = units[first : first + count + n - 1]
        grams[first : first + count] = sequence_hashes(part, slice(0, count), slice(n, n + count))
    return grams


class _Begins:
    """Tells which hashes are in a set."""

    def __init__(self, hashes: Hashes) -> None:
        self._hashes = np.unique(hashes)
        bits = max(10, min(27, (16 * len(self._hashes)).bit_length()))
        self._shift = np.uint64(64 - bits)
        self._maybe = np.zeros(1 << bits, bool)
        """[2^bits] Whether a hash with this beginning is in the set: nearly all are told apart by one look."""
        self._maybe[self._hashes >> self._shift] = True

    def places(self, hashes: Hashes) -> NDArray[np.int64]:
        """[found] Where there is one of the set among the hashes."""
        likely = self._maybe[hashes >> self._shift].nonzero()[0]
        return likely[_find(self._hashes, hashes[likely])[1]] if len(likely) else likely


class _Table:
    """The n-grams of one length, and the file that each is of."""

    def __init__(self, length: int, lists: Iterable[tuple[Hashes, int]]) -> None:
        self.length = length
        parts = list(lists)
        hashes = np.concatenate([part for part, _ in parts])
        files = np.repeat(np.array([file for _, file in parts], np.uint32), [len(part) for part, _ in parts])
        # The first file that has an n-gram counts: np.unique gives the first place of each.
        self._hashes, first = np.unique(hashes, return_index=True)
        self._files = files[first]

    def file_of(self, grams: Hashes) -> int | None:
        """The file of the first of the n-grams that is in the table."""
        places, there = _find(self._hashes, grams)
        return int(self._files[places[there][0]]) if there.any() else None


def _find(ordered: Hashes, hashes: Hashes) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """[hashes] Where each would be in the ordered ones, and [hashes] whether it is there."""
    places = np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)
    return places, ordered[places] == hashes
