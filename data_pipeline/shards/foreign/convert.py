"""Write the samples of MDS and litData as token files of ours: Megatron's pair, and where each sample came from."""

from array import array
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.shards.foreign.litdata import open_litdata
from data_pipeline.shards.foreign.mds import open_mds
from data_pipeline.shards.foreign.samples import SampleFile, Value
from data_pipeline.shards.manifest import PROVENANCE, dtype_for
from data_pipeline.shards.megatron import LONGEST, index_blocks
from data_pipeline.shards.writer import TOKENS_PER_SHARD
from data_pipeline.tokenizer import Tokenizer

_TEXTS = 1024
"""Texts encoded at once."""


class Sample(NamedTuple):
    """The ids of one sample."""

    ids: np.ndarray
    file: int
    record: int


def sample_files(format: str, index: Path, column: str | None, dtype: str | None) -> list[SampleFile]:
    """Open an MDS or litData folder. DataError when it is damaged or has no ids and no text."""
    return (open_mds if format == "mds" else open_litdata)(index, column, dtype)


def convert(
    files: list[SampleFile],
    tokenizer: Tokenizer,
    folder: Path,
    name: str,
    advance: Callable[[int], object],
    tokens_per_shard: int = TOKENS_PER_SHARD,
) -> list[Path]:
    """Write NAME_00000_text_document.bin, .idx and NAME_00000_documents.npy into `folder`; return the .bin files.

    A sample is a document. Ids stay as they are; texts are encoded and ended. DataError names the sample that has an
    id outside the vocabulary. `advance` is told the bytes of each file when it is done.
    """
    samples = _samples(files, tokenizer, advance)
    bins: list[Path] = []
    waiting = next(samples, None)
    while waiting is not None:
        stem = folder / f"{name}_{len(bins):05d}"
        bins.append(stem.with_name(stem.name + "_text_document.bin"))
        with bins[-1].open("wb") as out:
            waiting = _write_shard(out, stem, waiting, samples, dtype_for(tokenizer.vocab_size), tokens_per_shard)
    return bins


def _write_shard(
    out: BinaryIO, stem: Path, sample: Sample | None, samples: Iterator[Sample], dtype: str, most: int
) -> Sample | None:
    """Write samples until the next would not fit; return that one."""
    lengths, rows, tokens = array("i"), array("Q"), 0
    while sample is not None and (not tokens or tokens + len(sample.ids) <= most):
        out.write(sample.ids.astype(np.dtype(dtype).newbyteorder("<")).tobytes())
        lengths.append(len(sample.ids))
        rows.extend((sample.file, sample.record))
        tokens += len(sample.ids)
        sample = next(samples, None)
    with stem.with_name(stem.name + "_text_document.idx").open("wb") as file:
        file.writelines(index_blocks(dtype, np.frombuffer(lengths, np.intc)))
    np.save(stem.with_name(stem.name + "_documents.npy"), _provenance(np.frombuffer(rows, np.uint64).reshape(-1, 2)))
    return sample


def _provenance(pairs: np.ndarray) -> np.ndarray:
    """Rows of PROVENANCE from (file, record); a sample's identity is FILE:RECORD and needs no hash."""
    rows = np.zeros(len(pairs), PROVENANCE)
    rows["file"], rows["record"] = pairs[:, 0], pairs[:, 1]
    return rows


def _samples(files: list[SampleFile], tokenizer: Tokenizer, advance: Callable[[int], object]) -> Iterator[Sample]:
    """The ids of every sample of every file, checked."""
    for number, file in enumerate(files):
        values = enumerate(file.values())
        while batch := list(islice(values, _TEXTS)):
            for record, ids in zip((r for r, _ in batch), _ids([v for _, v in batch], tokenizer), strict=True):
                _check(ids, tokenizer.vocab_size, file.path, record)
                yield Sample(ids, number, record)
        advance(file.size)


def _ids(values: list[Value], tokenizer: Tokenizer) -> Iterator[np.ndarray]:
    """Ids as they are; texts encoded and ended, an empty one without ids."""
    texts = [value for value in values if isinstance(value, str)]
    encoded = iter(tokenizer.encode_batch(texts)) if texts else iter(())
    for value in values:
        if isinstance(value, str):
            ids = next(encoded)
            yield np.append(ids, tokenizer.eos_id) if value else ids[:0]
        else:
            yield value


def _check(ids: np.ndarray, vocab_size: int, path: Path, record: int) -> None:
    if len(ids) > LONGEST:
        raise DataError(f"{path}: sample {record} has {len(ids):,} ids; a document can hold {LONGEST:,}.")
    if len(ids) and not (ids.min() >= 0 and ids.max() < vocab_size):
        wrong = int(ids[(ids < 0) | (ids >= vocab_size)][0])
        raise DataError(
            f"{path}: sample {record} has the id {wrong}, the tokenizer has {vocab_size:,} ids: it was made by another "
            "tokenizer, or the ids are of another type (--dtype)."
        )
