"""The samples of a shard set when each document gives one for every so many of its tokens, and at least one."""

from itertools import accumulate
from typing import NamedTuple

import numpy as np

from data_pipeline.shards import ShardSet

_BLOCK = 4096
"""Documents counted together; a sample's document is found by counting inside its block again."""


class Place(NamedTuple):
    """Where a sample begins."""

    text: int
    """Place in the shard set where its document begins."""
    length: int
    """Tokens of the document, without the end-of-document token."""
    offset: int
    """Tokens of the document before the sample."""
    first_sample: int
    """Number of the document's first sample."""
    samples: int
    """Samples of the document."""


class DocumentSamples:
    """Numbers the samples of all documents. Opening is a pass over the document boundaries; 20 bytes a block stay."""

    def __init__(self, shards: ShardSet, stride: int) -> None:
        """Give each document of n > 0 tokens ceil(n / stride) samples."""
        self._shards, self._stride = shards, stride
        self._ending = int(shards.manifest.num_eos_tokens > 0)
        """Tokens at the end of a document that are no text."""
        counted = [self._count(shard) for shard in range(len(shards.manifest.shards))]
        self._blocks_before = [0, *accumulate(len(blocks) for blocks in counted)]
        self._sample_ends = np.cumsum(np.concatenate([np.empty(0, np.int64), *counted]))
        self._first_tokens = [0, *accumulate(shard.num_tokens for shard in shards.manifest.shards)]

    @property
    def total(self) -> int:
        """Samples of all documents."""
        return int(self._sample_ends[-1]) if len(self._sample_ends) else 0

    def __getitem__(self, sample: int) -> Place:
        """Say where a sample begins."""
        block = int(np.searchsorted(self._sample_ends, sample, side="right"))
        shard = int(np.searchsorted(self._blocks_before, block, side="right")) - 1
        ends, lengths = self._documents(shard, (block - self._blocks_before[shard]) * _BLOCK)
        samples_before = int(self._sample_ends[block - 1]) if block else 0
        sample_ends = samples_before + np.cumsum(self._samples(lengths))
        document = int(np.searchsorted(sample_ends, sample, side="right"))
        first = int(sample_ends[document - 1]) if document else samples_before
        length = int(lengths[document])
        begin = self._first_tokens[shard] + int(ends[document]) - self._ending - length
        return self._place(begin, length, first, int(sample_ends[document]) - first, sample)

    def _place(self, begin: int, length: int, first: int, samples: int, sample: int) -> Place:
        """Spread the samples of a document evenly, at most a stride apart, the last a stride before its end."""
        offset = (sample - first) * (length - self._stride) // (samples - 1) if samples > 1 else 0
        return Place(begin, length, offset, first, samples)

    def _documents(self, shard: int, first: int) -> tuple[np.ndarray, np.ndarray]:
        """Ends in the shard and lengths without the ending of up to a block of documents, int64."""
        boundaries = self._shards.boundaries(shard)
        ends = boundaries.ends(first, min(first + _BLOCK, boundaries.num_documents))
        before = int(boundaries.ends(first - 1, first)[0]) if first else 0
        return ends, np.maximum(0, np.diff(ends, prepend=before) - self._ending)

    def _samples(self, lengths: np.ndarray) -> np.ndarray:
        return -(-lengths // self._stride)

    def _count(self, shard: int) -> np.ndarray:
        """Samples in each block of a shard, int64."""
        before, counts = 0, [np.empty(0, np.int64)]
        for _, ends in self._shards.boundaries(shard).in_blocks():
            samples = self._samples(np.maximum(0, np.diff(ends, prepend=before) - self._ending))
            before = int(ends[-1])
            counts.append(np.add.reduceat(samples, np.arange(0, len(samples), _BLOCK)))
        return np.concatenate(counts)
