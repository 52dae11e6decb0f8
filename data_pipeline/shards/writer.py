"""Write a shard set in constant memory: tokens go straight to the disk, digested on the way."""

import contextlib
import glob
import hashlib
import os
import shutil
import struct
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.files import folder_aside, sync_folder
from data_pipeline.shards.manifest import (
    PROVENANCE,
    FileRecord,
    Manifest,
    ShardRecord,
    as_prefix,
    content_digest,
    dtype_for,
    manifest_path,
    write_manifest,
)
from data_pipeline.shards.megatron import LONGEST, index_blocks
from data_pipeline.tokenizer import Tokenizer

TOKENS_PER_SHARD = 2**31
_BUFFER = 1 << 20
_ROW = struct.Struct("<IQQQ")  # one row of PROVENANCE


class _DigestedFile:
    """A file that digests what is written to it."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        self._digest = hashlib.sha256()
        self._file: BinaryIO = path.open("wb", buffering=_BUFFER)

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)

    def close(self) -> FileRecord:
        """Flush to the disk and say what was written."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileRecord(name=self.path.name, size=self.size, sha256=self._digest.hexdigest())

    def abandon(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


class _Shard:
    """The shard being written."""

    def __init__(self, folder: Path, name: str, dtype: str) -> None:
        self.folder, self.name, self.dtype = folder, name, dtype
        self.tokens = _DigestedFile(folder / f"{name}_text_document.bin")
        self.num_tokens = 0
        self._lengths = array("i")
        self._provenance = bytearray()

    @property
    def num_documents(self) -> int:
        return len(self._lengths)

    def add(self, ids: np.ndarray, provenance: tuple[int, int, int, int]) -> None:
        self.tokens.write(ids.tobytes())
        self.num_tokens += len(ids)
        self._lengths.append(len(ids))
        self._provenance += _ROW.pack(*provenance)

    def close(self) -> ShardRecord:
        index = _DigestedFile(self.folder / f"{self.name}_text_document.idx")
        for block in index_blocks(self.dtype, np.frombuffer(self._lengths, np.intc)):
            index.write(block)
        documents = _DigestedFile(self.folder / f"{self.name}_documents.npy")
        header = {"descr": PROVENANCE.descr, "fortran_order": False, "shape": (len(self._lengths),)}
        np.lib.format.write_array_header_1_0(documents, header)
        documents.write(bytes(self._provenance))
        return ShardRecord(
            num_documents=len(self._lengths),
            num_tokens=self.num_tokens,
            bin=self.tokens.close(),
            idx=index.close(),
            documents=documents.close(),
        )


class ShardWriter:
    """Writes PREFIX_00000_text_document.{bin,idx}, PREFIX_00000_documents.npy, ... and, last, PREFIX.manifest.json.

    Everything is written into a hidden folder beside PREFIX and renamed by `commit`. As a context manager it leaves
    nothing behind when the block fails. Memory holds about 32 bytes a document of the current shard, never the tokens.
    """

    def __init__(
        self,
        prefix: str | Path,
        tokenizer: Tokenizer,
        sources: list[FileRecord],
        tokens_per_shard: int = TOKENS_PER_SHARD,
        text_field: str = "text",
        id_field: str = "id",
    ) -> None:
        """Start a set. `sources` are the files that documents will name; the fields are kept to find records again."""
        self.prefix = as_prefix(prefix)
        self._tokenizer, self._sources = tokenizer, sources
        self._file_numbers = {source.name: number for number, source in enumerate(sources)}
        self._tokens_per_shard = tokens_per_shard
        self._fields = {"text_field": text_field, "id_field": id_field}
        self._dtype = dtype_for(tokenizer.vocab_size)
        self._eos = np.array([tokenizer.eos_id])
        self._aside = contextlib.ExitStack()
        self._shards: list[ShardRecord] = []
        self._current: _Shard | None = None
        self._text_bytes = self._num_empty = 0
        with self._explained():
            self._folder = self._aside.enter_context(folder_aside(self.prefix))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        if kind is not None:
            self.abandon()

    @property
    def num_documents(self) -> int:
        """Documents added so far, empty ones left out."""
        current = self._current.num_documents if self._current else 0
        return current + sum(shard.num_documents for shard in self._shards)

    def add(self, ids: np.ndarray, text_bytes: int, source: str, record: int, offset: int, id_hash: int) -> None:
        """Append one document: its ids (int [tokens], without the end-of-document token) and where it came from."""
        if text_bytes == 0:
            self._num_empty += 1
            return
        if len(ids) >= LONGEST:
            raise DataError(
                f"{source}, record {record} has {len(ids)} tokens; a document can hold {LONGEST - 1}: split it."
            )
        row = np.concatenate([ids, self._eos]).astype(np.dtype(self._dtype).newbyteorder("<"))
        with self._explained():
            shard = self._shard_with_room(len(row))
            shard.add(row, (self._file_numbers[source], record, offset, id_hash))
        self._text_bytes += text_bytes

    def commit(self) -> Manifest:
        """Put the set in its place; an older one under the same prefix is gone from the moment the first file moves."""
        with self._explained():
            self._close_shard()
            manifest = self._manifest()
            manifest_path(self.prefix).unlink(missing_ok=True)
            self._remove_older()
            for file in sorted(self._folder.iterdir()):
                file.replace(self.prefix.parent / file.name)
            sync_folder(self.prefix.parent)
        write_manifest(self.prefix, manifest)
        self._aside.close()
        return manifest

    def abandon(self) -> None:
        """Remove what was written so far."""
        if self._current:
            self._current.tokens.abandon()
        self._aside.close()

    def _shard_with_room(self, count: int) -> _Shard:
        """Return the current shard, or a new one when `count` more tokens would not fit."""
        if self._current and self._current.num_tokens + count > self._tokens_per_shard:
            self._close_shard()
        if self._current is None:
            name = f"{self.prefix.name}_{len(self._shards):05d}"
            self._current = _Shard(self._folder, name, self._dtype)
        return self._current

    def _close_shard(self) -> None:
        if self._current:
            self._shards.append(self._current.close())
            self._current = None

    def _manifest(self) -> Manifest:
        documents = sum(shard.num_documents for shard in self._shards)
        return Manifest(
            dtype=self._dtype,
            vocab_size=self._tokenizer.vocab_size,
            tokenizer_sha256=self._tokenizer.digest,
            eos_id=self._tokenizer.eos_id,
            num_documents=documents,
            num_tokens=sum(shard.num_tokens for shard in self._shards),
            num_eos_tokens=documents,
            num_empty_documents=self._num_empty,
            text_bytes=self._text_bytes,
            shards=self._shards,
            sources=self._sources,
            content_sha256=content_digest(self._dtype, self._shards),
            **self._fields,
        )

    def _remove_older(self) -> None:
        for pattern in ("_[0-9][0-9][0-9][0-9][0-9]_text_document.*", "_[0-9][0-9][0-9][0-9][0-9]_documents.npy"):
            for file in self.prefix.parent.glob(glob.escape(self.prefix.name) + pattern):
                file.unlink()
        for plan in self.prefix.parent.glob(f"{glob.escape(self.prefix.name)}.packed-*-{16 * '[0-9a-f]'}"):
            shutil.rmtree(plan)  # made by mixture.pack_build, of tokens that are no more

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn a full or unwritable disk into a sentence."""
        try:
            yield
        except OSError as error:
            raise DataError(f"cannot write the shards {self.prefix}: {error.strerror or error}.") from error
