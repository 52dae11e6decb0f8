"""Read a shard set: its tokens as one long row, its documents by their places in that row."""

from bisect import bisect_right
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.read.document import hash_identity
from data_pipeline.shards.boundaries import Boundaries, open_boundaries
from data_pipeline.shards.manifest import PROVENANCE, FileRecord, Manifest, as_prefix, read_manifest
from data_pipeline.shards.token_files import TokenFiles


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


class ShardSet:
    """A shard set. Opening reads only the manifest; other files are opened when they are first touched."""

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
        self._files = TokenFiles(lambda shard: self._checked(manifest.shards[shard].bin), self._dtype)
        self._boundaries: dict[int, Boundaries] = {}

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
        if start < 0 or start + len(out) > self.num_tokens:
            raise self._out_of_range(start, len(out))
        for shard, first, part in self._parts(start, len(out)):
            out[part] = self._files[shard].read(first, part.stop - part.start)

    def will_need(self, start: int, length: int) -> None:
        """Ask the system to read these places ahead of their use; returns at once."""
        for shard, first, part in self._parts(start, min(length, self.num_tokens - start)):
            self._files[shard].will_need(first, part.stop - part.start)

    def _parts(self, start: int, length: int) -> list[tuple[int, int, slice]]:
        """Return (shard, first token in it, where they belong in a row of `length`) of the places from `start` on."""
        shard = bisect_right(self._token_ends, start)
        if start + length <= self._token_ends[shard]:
            return [(shard, start - self._first_token(shard), slice(0, length))]
        parts, done = [], 0
        while done < length:
            end = min(length, self._token_ends[shard] - start)
            if done < end:
                parts.append((shard, start + done - self._first_token(shard), slice(done, end)))
            done, shard = end, shard + 1
        return parts

    def check_sizes(self) -> None:
        """Compare every file's size with the manifest, cheaply. DataError names the first that differs."""
        for shard in self.manifest.shards:
            for record in shard.files:
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
        first, end = self.boundaries(shard).span(local)
        if not 0 <= first <= end <= self.manifest.shards[shard].num_tokens:
            raise self._damaged(shard, local)
        return DocumentSpan(document, self._first_token(shard) + first, self._first_token(shard) + end)

    def boundaries(self, shard: int) -> Boundaries:
        """Map the document boundaries of one shard. DataError when they are of another number of documents."""
        if shard not in self._boundaries:
            record = self.manifest.shards[shard]
            boundaries = open_boundaries(self._checked(record.idx))
            if boundaries.num_documents != record.num_documents:
                raise self._damaged(shard, min(boundaries.num_documents, record.num_documents))
            self._boundaries[shard] = boundaries
        return self._boundaries[shard]

    def provenance(self, document: int) -> Provenance:
        """Say where a document came from: where nothing else is known, from its place in the token file."""
        shard, local = self._shard_of_document(document)
        rows = self.provenance_array(shard)
        if rows is None:
            offset = (self.document_span(document).first - self._first_token(shard)) * self._dtype.itemsize
            return Provenance(str(self._bin_path(shard)), local, offset, 0)
        row = rows[local]
        if row["file"] >= len(self.manifest.sources):
            raise self._damaged(shard, local)
        source = self.manifest.sources[int(row["file"])].name
        return Provenance(source, int(row["record"]), int(row["offset"]), int(row["id_hash"]))

    def find_documents(self, identity: str) -> list[int]:
        """Return the documents with this id. A pass over the provenance: 28 bytes a document."""
        wanted = np.uint64(hash_identity(identity))
        return self._documents_where(lambda rows: rows["id_hash"] == wanted)

    def find_records(self, source: str, record: int) -> list[int]:
        """Return the document made from this record of a source file (its path as given, or the end of it)."""
        names = [entry.name for entry in self.manifest.sources]
        files = [n for n, name in enumerate(names) if _names(name, source)]
        found = self._documents_where(lambda rows: np.isin(rows["file"], files) & (rows["record"] == record))
        for number, shard in enumerate(self.manifest.shards):
            if shard.documents is None and record < shard.num_documents and _names(str(self._bin_path(number)), source):
                found.append(self._first_document(number) + record)
        return found

    def provenance_array(self, shard: int) -> np.ndarray | None:
        """Map the provenance of one shard: a structured array of shards.manifest.PROVENANCE [documents], or None."""
        record = self.manifest.shards[shard].documents
        if record is None:
            return None
        path = self._checked(record)
        try:
            rows = np.lib.format.open_memmap(path, mode="r")
        except Exception as error:  # NumPy raises nearly anything for a damaged header
            raise DataError(f"{path} is damaged ({error}); bring it back or prepare the data again.") from error
        if rows.dtype != PROVENANCE or rows.shape != (self.manifest.shards[shard].num_documents,):
            raise DataError(
                f"{path} holds {rows.dtype} {list(rows.shape)}, not the provenance of "
                f"{self.manifest.shards[shard].num_documents} documents; bring it back or prepare the data again."
            )
        return rows

    def _documents_where(self, test: Callable[[np.ndarray], np.ndarray]) -> list[int]:
        found: list[int] = []
        for shard in range(len(self.manifest.shards)):
            rows = self.provenance_array(shard)
            if rows is not None:
                found += (np.flatnonzero(test(rows)) + self._first_document(shard)).tolist()
        return found

    def _document_at(self, place: int) -> DocumentSpan:
        if not 0 <= place < self.num_tokens:
            raise self._out_of_range(place, 1)
        shard = bisect_right(self._token_ends, place)
        local = self.boundaries(shard).num_ended(place - self._first_token(shard))
        if not 0 <= local < self.manifest.shards[shard].num_documents:
            raise self._damaged(shard, local)
        span = self.document_span(self._first_document(shard) + local)
        if not span.first <= place < span.end:  # whoever goes on from its end would never arrive
            raise self._damaged(shard, local)
        return span

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

    def _bin_path(self, shard: int) -> Path:
        return self.prefix.parent / self.manifest.shards[shard].bin.name

    def _damaged(self, shard: int, document: int) -> DataError:
        """What to say of boundaries or provenance that cannot be right."""
        names = " or ".join(str(self.prefix.parent / file.name) for file in self.manifest.shards[shard].files[1:])
        return DataError(
            f"{names} is damaged at document {document}; `megamodel data verify {self.prefix}` tells more."
        )

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


def _names(path: str, given: str) -> bool:
    """Does `given` name this path, whole or by its end?"""
    return path == given or path.endswith("/" + given)
