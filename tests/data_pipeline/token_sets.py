"""Shard sets of documents that a test makes up, token by token."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_pipeline.shards import FileRecord, ShardSet, ShardWriter
from data_pipeline.tokenizer import Tokenizer


def write_set(
    prefix: Path, tokenizer: Tokenizer, documents: Sequence[np.ndarray], tokens_per_shard: int = 2**31
) -> ShardSet:
    """Write documents of ids, without the end-of-document token, which each of them gets."""
    source = FileRecord(name="made up", size=0, sha256="")
    with ShardWriter(prefix, tokenizer, [source], tokens_per_shard) as writer:
        for number, ids in enumerate(documents):
            writer.add(np.asarray(ids), 1, source.name, number, 0, number)
        writer.commit()
    return ShardSet.open(prefix)


def random_documents(lengths: Sequence[int] | np.ndarray, largest: int, seed: int = 0) -> list[np.ndarray]:
    """Documents of so many random ids from 1 to `largest`; lengths without the end-of-document token."""
    rng = np.random.default_rng(seed)
    return [rng.integers(1, largest + 1, length) for length in lengths]
