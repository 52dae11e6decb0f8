"""Documents that a run leaves out, without moving any sample.

A window that holds a part of such a document is drawn where it always was. In its row the document's tokens become
end-of-document tokens that are no targets: nothing of the text reaches the model, as input or as target, and the
documents around it stay documents of their own.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import accumulate

import numpy as np

from data_pipeline.mixture.windows import Windows
from data_pipeline.read.document import hash_identity
from data_pipeline.shards import ShardSet


class Skipped:
    """The documents of one source that are left out."""

    def __init__(self, windows: Windows, documents: Iterable[range]) -> None:
        """Take stretches of document numbers. Costs one look into the index for each stretch."""
        self._windows, self._eos = windows, windows.shards.manifest.eos_id
        documents = _merged(documents)
        self._documents = np.array([(some.start, some.stop) for some in documents], np.int64).reshape(-1, 2)
        span = windows.shards.document_span
        spans = [(span(some.start).first, span(some.stop - 1).end) for some in documents]
        self._spans = np.array(spans, np.int64).reshape(-1, 2)
        affected = [np.fromiter(windows.windows_with(first, end), np.int64) for first, end in spans]
        self._affected = np.unique(np.concatenate([np.empty(0, np.int64), *affected]))

    def __contains__(self, document: int) -> bool:
        before = int(np.searchsorted(self._documents[:, 0], document, side="right")) - 1
        return before >= 0 and document < self._documents[before, 1]

    def __len__(self) -> int:
        return int((self._documents[:, 1] - self._documents[:, 0]).sum())

    def hide(self, windows: np.ndarray, rows: Sequence[np.ndarray]) -> None:
        """Replace the documents' tokens in the rows, [seq_len + 1] each, of windows int64 [n], in place."""
        for number in self._touched(windows):
            for start, stop, _ in self._columns(int(windows[number])):
                rows[number][start:stop] = ~self._eos

    def num_targets(self, windows: np.ndarray) -> int:
        """Count the targets that windows int64 [n] lose, without reading them."""
        lost = 0
        for number in self._touched(windows):
            for start, stop, column in self._columns(int(windows[number])):
                lost += stop - max(start, column + 1)
        return lost

    def _touched(self, windows: np.ndarray) -> list[int]:
        """Rows whose windows hold a token of a skipped document."""
        places = np.searchsorted(self._affected, windows)
        places[places == len(self._affected)] = 0
        hit = self._affected[places] == windows if len(self._affected) else np.zeros(len(windows), bool)
        return np.flatnonzero(hit).tolist()

    def _columns(self, window: int) -> Iterator[tuple[int, int, int]]:
        """Columns of a window's row with tokens of skipped documents: first, last + 1, and their stretch's first."""
        for column, first, length in self._windows.stretches(window):
            begin = np.searchsorted(self._spans[:, 1], first, side="right")
            end = np.searchsorted(self._spans[:, 0], first + length, side="left")
            for start, stop in self._spans[begin:end].tolist():
                yield column + max(start, first) - first, column + min(stop, first + length) - first, column


def _merged(documents: Iterable[range]) -> list[range]:
    """The same numbers as ascending stretches that do not touch."""
    merged: list[range] = []
    for some in sorted((some for some in documents if len(some)), key=lambda some: some.start):
        if merged and some.start <= merged[-1].stop:
            merged[-1] = range(merged[-1].start, max(merged[-1].stop, some.stop))
        else:
            merged.append(some)
    return merged


def documents_named(shards: ShardSet, names: Collection[str]) -> dict[str, list[int]]:
    """Find the documents with these ids or, for names that are no id here, made from these FILE:RECORD.

    Two passes over the provenance, 28 bytes a document, however many names. Names that are not there are left out.
    """
    found = _with_ids(shards, names)
    records = {name: place for name in names if name not in found and (place := _file_and_record(name))}
    return found | _from_records(shards, records)


def _with_ids(shards: ShardSet, names: Collection[str]) -> dict[str, list[int]]:
    by_hash: dict[int, list[str]] = {}
    for name in names:
        by_hash.setdefault(hash_identity(name), []).append(name)
    wanted = np.array(sorted(by_hash), np.uint64)
    found: dict[str, list[int]] = {}
    for first, rows in _provenance(shards):
        for row in np.flatnonzero(np.isin(rows["id_hash"], wanted)).tolist():
            for name in by_hash[int(rows["id_hash"][row])]:
                found.setdefault(name, []).append(first + row)
    return found


def _from_records(shards: ShardSet, records: dict[str, tuple[str, int]]) -> dict[str, list[int]]:
    if not records:
        return {}
    files = [entry.name for entry in shards.manifest.sources]
    wanted: dict[tuple[int, int], list[str]] = {}
    for name, (file, record) in records.items():
        for number in (n for n, path in enumerate(files) if path == file or path.endswith("/" + file)):
            wanted.setdefault((number, record), []).append(name)
    found: dict[str, list[int]] = {}
    numbers = np.array(sorted({record for _, record in wanted}), np.uint64)
    for first, rows in _provenance(shards):
        for row in np.flatnonzero(np.isin(rows["record"], numbers)).tolist():
            for name in wanted.get((int(rows["file"][row]), int(rows["record"][row])), ()):
                found.setdefault(name, []).append(first + row)
    return found


def _file_and_record(name: str) -> tuple[str, int] | None:
    file, colon, record = name.rpartition(":")
    return (file, int(record)) if colon and record.isdecimal() and len(record) < 19 else None


def _provenance(shards: ShardSet) -> Iterator[tuple[int, np.ndarray]]:
    """The number of each shard's first document, and the provenance of its documents where it has any."""
    counts = [shard.num_documents for shard in shards.manifest.shards]
    for number, end in enumerate(accumulate(counts)):
        rows = shards.provenance_array(number)
        if rows is not None:
            yield end - counts[number], rows
