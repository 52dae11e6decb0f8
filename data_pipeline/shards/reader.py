"""Read a shard set: its tokens as one long row, its documents by their places in that row."""

import contextlib
import functools
import mmap
import resource
import weakref
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from threading import Lock
from typing import NamedTuple

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.read.document import hash_identity
from data_pipeline.shards.manifest import PROVENANCE, FileRecord, Manifest, as_prefix, read_manifest
from data_pipeline.shards.megatron import Index, map_index

_MOST_DESCRIPTORS = 1 << 16
"""Asked of the system at most; it also limits the maps of a process, to 65,530."""
_open_sets: "weakref.WeakSet[ShardSet]" = weakref.WeakSet()


@functools.cache
def _maps_at_once() -> int:
    """How many files this process may keep mapped: half its descriptors, of which each map holds one.

    The soft limit, often 1,024, is raised to what the system allows: a corpus may have thousands of shards.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return (wanted if soft == resource.RLIM_INFINITY else min(soft, _MOST_DESCRIPTORS)) // 2


class DocumentSpan(NamedTuple):
    """A document and its tokens' places in the shard set, end-of-document token included."""

    document: int
    first: int
    end: int


class Provenance(NamedTuple):
    """Where a document came from."""

    source: str
    """Path of the file, as it was given."""
    position: int
    """Number of the record in that file, from 0."""
    offset: int
    """Byte at which the record starts."""
    id_hash: int
    """64 bits of the document's id."""


class _Mapped(NamedTuple):
    """A mapped .bin: the ids, and the map itself for advice about reading ahead."""

    ids: np.ndarray
    view: mmap.mmap


class ShardSet:
    """A shard set. Opening reads only the manifest; files are mapped when they are first touched."""

    def __init__(self, prefix: Path, manifest: Manifest) -> None:
        """Use `open`."""
        self.prefix = prefix
        self.manifest = manifest
        self.num_tokens = manifest.num_tokens
        self.num_documents = manifest.num_documents
        self.digest = manifest.content_sha256
        """Identity of the token data in the data order, wherever the files lie."""
        self._dtype = np.dtype(manifest.dtype).newbyteorder("<")
        self._token_ends = list(accumulate(shard.num_tokens for shard in manifest.shards))
        self._document_ends = list(accumulate(shard.num_documents for shard in manifest.shards))
        self._mapped: OrderedDict[int, _Mapped] = OrderedDict()
        self._indexes: dict[int, Index] = {}
        self._lock = Lock()
        _open_sets.add(self)

    @classmethod
    def open(cls, prefix: str | Path) -> "ShardSet":
        """Open PREFIX (or PREFIX.manifest.json). DataError when there is no such set."""
        prefix = as_prefix(prefix)
        return cls(prefix, read_manifest(prefix))

    def read(self, start: int, length: int) -> np.ndarray:
        """Return the ids [length] from place `start` on, in the type they are stored in."""
        out = np.empty(length, self._dtype)
        self.read_into(start, out)
        return out

    def read_into(self, start: int, out: np.ndarray) -> None:
        """Fill `out` [length] (any integer type) with the ids from place `start` on."""
        length = len(out)
        if start < 0 or start + length > self.num_tokens:
            raise self._out_of_range(start, length)
        shard = bisect_right(self._token_ends, start)
        local = start - self._first_token(shard)
        ids = self._map(shard).ids
        if local + length <= len(ids):
            out[:] = ids[local : local + length]
            return
        here = len(ids) - local
        out[:here] = ids[local:]
        self.read_into(start + here, out[here:])

    def will_need(self, start: int, length: int) -> None:
        """Ask the system to read these places ahead of their use; returns at once."""
        shard = bisect_right(self._token_ends, start)
        ids, view = self._map(shard)
        first = (start - self._first_token(shard)) * ids.itemsize
        page = first - first % mmap.PAGESIZE
        end = min(len(view), first + length * ids.itemsize)
        view.madvise(mmap.MADV_WILLNEED, page, end - page)

    def check_sizes(self) -> None:
        """Compare every file's size with the manifest, cheaply. DataError names the first that differs."""
        for shard in self.manifest.shards:
            for record in (shard.bin, shard.idx, shard.documents):
                self._checked(record)

    def documents_in(self, start: int, length: int) -> list[DocumentSpan]:
        """Return the documents that have a token in [start, start + length), in order, with their whole extents."""
        spans: list[DocumentSpan] = []
        place, end = start, start + length
        while place < end:
            span = self._document_at(place)
            spans.append(span)
            place = span.end
        return spans

    def document_span(self, document: int) -> DocumentSpan:
        """Return the extent of a document by its number in the set."""
        shard, local = self._shard_of_document(document)
        index = self._index(shard)
        first = self._first_token(shard) + int(index.offsets[local]) // self._dtype.itemsize
        return DocumentSpan(document, first, first + int(index.lengths[local]))

    def provenance(self, document: int) -> Provenance:
        """Say where a document came from."""
        shard, local = self._shard_of_document(document)
        row = self.provenance_array(shard)[local]
        source = self.manifest.sources[int(row["file"])].name
        return Provenance(source, int(row["record"]), int(row["offset"]), int(row["id_hash"]))

    def find_documents(self, identity: str) -> list[int]:
        """Return the documents with this id. A pass over the provenance: 28 bytes a document."""
        wanted = np.uint64(hash_identity(identity))
        return self._documents_where(lambda rows: rows["id_hash"] == wanted)

    def find_records(self, source: str, record: int) -> list[int]:
        """Return the document made from this record of a source file (its path as given, or the end of it)."""
        names = [entry.name for entry in self.manifest.sources]
        files = [n for n, name in enumerate(names) if name == source or name.endswith("/" + source)]
        return self._documents_where(lambda rows: np.isin(rows["file"], files) & (rows["record"] == record))

    def provenance_array(self, shard: int) -> np.ndarray:
        """Map the provenance of one shard: a structured array of shards.manifest.PROVENANCE [documents]."""
        record = self.manifest.shards[shard].documents
        path = self._checked(record)
        try:
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}); prepare the data again.") from error
        if rows.dtype != PROVENANCE:
            raise DataError(f"{path} holds {rows.dtype}, not the provenance of documents; prepare the data again.")
        return rows

    def _documents_where(self, test: Callable[[np.ndarray], np.ndarray]) -> list[int]:
        found: list[int] = []
        for shard in range(len(self.manifest.shards)):
            rows = np.flatnonzero(test(self.provenance_array(shard)))
            found += (rows + self._first_document(shard)).tolist()
        return found

    def _document_at(self, place: int) -> DocumentSpan:
        if not 0 <= place < self.num_tokens:
            raise self._out_of_range(place, 1)
        shard = bisect_right(self._token_ends, place)
        offset = (place - self._first_token(shard)) * self._dtype.itemsize
        local = int(np.searchsorted(self._index(shard).offsets, offset, side="right")) - 1
        return self.document_span(self._first_document(shard) + local)

    def _shard_of_document(self, document: int) -> tuple[int, int]:
        if not 0 <= document < self.num_documents:
            raise ValueError(f"document {document} is outside 0..{self.num_documents - 1}")
        shard = bisect_right(self._document_ends, document)
        return shard, document - self._first_document(shard)

    def _first_token(self, shard: int) -> int:
        return self._token_ends[shard - 1] if shard else 0

    def _first_document(self, shard: int) -> int:
        return self._document_ends[shard - 1] if shard else 0

    def _out_of_range(self, start: int, length: int) -> ValueError:
        return ValueError(f"tokens {start}..{start + length} are outside 0..{self.num_tokens} of {self.prefix}")

    def _index(self, shard: int) -> Index:
        if shard not in self._indexes:
            self._indexes[shard] = map_index(self._checked(self.manifest.shards[shard].idx))
        return self._indexes[shard]

    def _map(self, shard: int) -> _Mapped:
        """Return the mapped .bin of a shard; beyond this set's share of the maps, the least recently used one goes."""
        with self._lock:
            mapped = self._mapped.get(shard)
            if mapped is None:
                mapped = self._mapped[shard] = self._open_bin(shard)
                while len(self._mapped) > max(1, _maps_at_once() // len(_open_sets)):
                    self._mapped.popitem(last=False)
            self._mapped.move_to_end(shard)
        return mapped

    def _open_bin(self, shard: int) -> _Mapped:
        path = self._checked(self.manifest.shards[shard].bin)
        with path.open("rb") as file:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        # Windows are drawn at random: read-ahead around each would drag in pages that nobody asked for.
        view.madvise(mmap.MADV_RANDOM)
        return _Mapped(np.frombuffer(view, self._dtype), view)

    def _checked(self, record: FileRecord) -> Path:
        """Return the path of a file of this set. DataError when it is missing or its size is not the manifest's."""
        path = self.prefix.parent / record.name
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(
                f"{path}, which {self.prefix}.manifest.json names, cannot be read ({error.strerror}); "
                "bring it back or prepare the data again."
            ) from error
        if size != record.size:
            raise DataError(
                f"{path} has {size:,} bytes, its manifest says {record.size:,}: it was cut short or replaced; "
                "bring it back or prepare the data again."
            )
        return path
