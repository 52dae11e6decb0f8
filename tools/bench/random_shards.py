"""A shard set of random ids, to measure reading on."""

import os
from pathlib import Path

import numpy as np

from data_pipeline.shards.manifest import FileRecord, Manifest, ShardRecord, content_digest, write_manifest
from data_pipeline.shards.megatron import index_blocks

_TOKENS_PER_DOCUMENT = 1000
_CHUNK = 1 << 24
_VOCABULARY = 50_257


def write_random_shards(folder: Path, size: int) -> Path:
    """Write one shard of about `size` bytes of uint16 ids, in documents of 1,000; return its prefix.

    Its digests are those of nothing: it cannot be verified.
    """
    documents = max(1, size // (2 * _TOKENS_PER_DOCUMENT))
    tokens = documents * _TOKENS_PER_DOCUMENT
    stem = folder / "random_00000_text_document"
    generator = np.random.default_rng(0)
    with stem.with_suffix(".bin").open("wb") as file:
        for start in range(0, tokens, _CHUNK):
            ids = generator.integers(0, _VOCABULARY, min(_CHUNK, tokens - start), np.uint16)
            file.write(ids.tobytes())
        file.flush()
        os.fsync(file.fileno())
    with stem.with_suffix(".idx").open("wb") as file:
        file.writelines(index_blocks("uint16", np.full(documents, _TOKENS_PER_DOCUMENT, np.int32)))
    records = [
        FileRecord(name=stem.name + suffix, size=stem.with_suffix(suffix).stat().st_size, sha256="")
        for suffix in (".bin", ".idx")
    ]
    shard = ShardRecord(num_documents=documents, num_tokens=tokens, bin=records[0], idx=records[1], documents=None)
    manifest = Manifest(
        version=2,
        origin="megatron",
        dtype="uint16",
        vocab_size=_VOCABULARY,
        tokenizer_sha256="",
        eos_id=0,
        num_documents=documents,
        num_tokens=tokens,
        num_eos_tokens=0,
        num_empty_documents=0,
        text_bytes=0,
        text_field="text",
        id_field="id",
        shards=[shard],
        sources=[],
        content_sha256=content_digest("uint16", [shard]),
    )
    write_manifest(folder / "random", manifest)
    return folder / "random"
