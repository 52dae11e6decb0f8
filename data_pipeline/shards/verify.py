"""Check a shard set against its manifest, byte by byte, and say what differs and where."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.files import sha256_of
from data_pipeline.shards.manifest import (
    FileRecord,
    Manifest,
    ShardRecord,
    as_prefix,
    content_digest,
    dtype_for,
    manifest_digest,
    parse_manifest,
    sum_problems,
)
from data_pipeline.shards.megatron import map_index

_CHUNK = 1 << 24


def verify(prefix: str | Path, advance: Callable[[int], object] = lambda size: None) -> list[str]:
    """Return the problems found, one sentence each; none when every byte is as it was written.

    `advance` is told the bytes checked since its last call. DataError when there is no manifest to check against.
    """
    prefix = as_prefix(prefix)
    manifest = parse_manifest(prefix)
    problems = list(_manifest_problems(manifest, f"{prefix}.manifest.json"))
    for shard in manifest.shards:
        for record in (shard.bin, shard.idx, shard.documents):
            problems += _file_problems(prefix.parent / record.name, record)
            advance(record.size)
        problems += _content_problems(prefix.parent, shard, manifest)
    return problems


def _manifest_problems(manifest: Manifest, name: str) -> Iterator[str]:
    """The sums in the manifest must agree with each other."""
    pairs = [
        ("num_eos_tokens", manifest.num_eos_tokens, manifest.num_documents),
        ("dtype", manifest.dtype, dtype_for(manifest.vocab_size)),
        ("content_sha256", manifest.content_sha256, content_digest(manifest.dtype, manifest.shards)),
    ]
    yield from (f"{name}: {problem}." for problem in sum_problems(manifest))
    if manifest.manifest_sha256 not in ("", manifest_digest(manifest)):
        yield f"{name} changed after it was written: its fields do not match its own manifest_sha256."
    for field, said, true in pairs:
        if said != true:
            yield f"{name}: {field} is {said}, its shards make it {true}."


def _file_problems(path: Path, record: FileRecord) -> Iterator[str]:
    try:
        size = path.stat().st_size
        if size != record.size:
            kind = (
                f"cut short at byte {size:,}" if size < record.size else f"longer than it was from byte {record.size:,}"
            )
            yield f"{path} has {size:,} bytes, the manifest says {record.size:,}: {kind}."
        elif (digest := sha256_of(path)) != record.sha256:
            yield (
                f"{path} changed after it was written: its sha256 is {digest[:16]}..., "
                f"the manifest says {record.sha256[:16]}..."
            )
    except OSError as error:
        yield f"{path} cannot be read: {error.strerror}."


def _content_problems(folder: Path, shard: ShardRecord, manifest: Manifest) -> Iterator[str]:
    """What a reader relies on: boundaries that add up, ids inside the vocabulary, an end after each document."""
    try:
        index = map_index(folder / shard.idx.name)
    except DataError as error:
        yield str(error)
        return
    path = folder / shard.idx.name
    size = np.dtype(manifest.dtype).itemsize
    ends = np.cumsum(index.lengths, dtype=np.int64)
    if index.dtype != manifest.dtype or len(index.lengths) != shard.num_documents:
        yield (
            f"{path} holds {len(index.lengths)} documents of {index.dtype}, "
            f"the manifest says {shard.num_documents} of {manifest.dtype}."
        )
    if not np.array_equal(index.offsets, (ends - index.lengths) * size) or (len(ends) and ends[-1] != shard.num_tokens):
        wrong = np.flatnonzero(index.offsets != (ends - index.lengths) * size)
        yield f"{path}: the boundaries do not add up from document {wrong[0] if len(wrong) else len(ends) - 1} on."
    elif _size(folder / shard.bin.name) >= size:
        yield from _token_problems(folder / shard.bin.name, ends, manifest)


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


def _token_problems(path: Path, ends: np.ndarray, manifest: Manifest) -> Iterator[str]:
    dtype = np.dtype(manifest.dtype).newbyteorder("<")
    ids = np.memmap(path, dtype, mode="r", shape=(_size(path) // dtype.itemsize,))
    for start in range(0, len(ids), _CHUNK):
        chunk = np.asarray(ids[start : start + _CHUNK])
        wrong = np.flatnonzero((chunk >= manifest.vocab_size) | (chunk < 0))
        if len(wrong):
            place = start + int(wrong[0])
            yield (
                f"{path}: the id {ids[place]} at byte {place * dtype.itemsize:,} is outside the vocabulary "
                f"of {manifest.vocab_size}."
            )
            break
    last = ends[ends <= len(ids)] - 1
    unended = last[ids[last] != manifest.eos_id]
    if len(unended):
        place = int(unended[0]) * dtype.itemsize
        yield f"{path}: the document that ends at byte {place:,} has no end-of-document token."
