"""The order of the data: from a sample index to a window of tokens, as a pure function of (seed, index).

Blend: sample i is the j-th sample of source k. Permutation: of the n windows of that source, a shuffle keyed by the
epoch j // n picks the (j % n)-th. Window: `windows` says which tokens of the source it is. Sources are known by the
digests of their tokens, so neither paths nor the order of a list matter.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.mixture.blend import Blend
from data_pipeline.mixture.permutation import Permutation
from data_pipeline.mixture.windows import Windows
from data_pipeline.shards import ShardSet


class Mixture:
    """A weighted, shuffled, endless sequence of windows over several shard sets. Holds no state but its settings."""

    def __init__(self, sources: Sequence[tuple[ShardSet, float]], seq_len: int, seed: int) -> None:
        """Blend opened shard sets. DataError when one is too short, given twice, or made by another tokenizer."""
        if not sources:
            raise DataError("a mixture needs at least one shard set.")
        ordered = sorted(sources, key=lambda source: source[0].digest)
        self.sources = [shards for shards, _ in ordered]
        """In the order of their digests: the source index in `samples` points in here."""
        self.seq_len, self.seed = seq_len, seed
        _check(self.sources)
        self.weights = [weight for _, weight in ordered]
        """As given, in the order of `sources`."""
        self.blend = Blend(self.weights)
        self.windows = [Windows(shards, seq_len) for shards in self.sources]
        """How each source is cut into windows."""
        self.num_windows = [windows.num_windows for windows in self.windows]
        """Windows in one epoch of each source."""

    @classmethod
    def open(
        cls,
        sources: Sequence[tuple[str | Path, float]],
        seq_len: int,
        seed: int,
        tokenizer_digest: str | None = None,
    ) -> "Mixture":
        """Open (prefix, weight) pairs; reads their manifests and nothing else.

        With `tokenizer_digest`, DataError when a set was made by another tokenizer.
        """
        opened = [(ShardSet.open(prefix), weight) for prefix, weight in sources]
        for shards, _ in opened:
            if tokenizer_digest is not None and shards.manifest.tokenizer_sha256 != tokenizer_digest:
                made_by = shards.manifest.tokenizer_sha256
                raise DataError(
                    f"{shards.prefix} was made by another tokenizer (sha256 {made_by[:12]}...) than the one configured "
                    f"({tokenizer_digest[:12]}...); point data.tokenizer at the one that made it, or tokenize again."
                )
        return cls(opened, seq_len, seed)

    def samples(self, first: int, count: int) -> np.ndarray:
        """Return int64 [count, 2]: (source, window) of `count` samples from `first` on, in O(count)."""
        sources, positions = self.blend(np.arange(first, first + count, dtype=np.int64))
        windows = np.empty(count, np.int64)
        for source in np.unique(sources).tolist():
            rows = np.flatnonzero(sources == source)
            windows[rows] = self._shuffled(source, positions[rows])
        return np.stack([sources, windows], axis=1)

    def read(self, samples: np.ndarray) -> np.ndarray:
        """Return the tokens of samples [n, 2] as int64 [n, seq_len + 1]."""
        out = np.empty((len(samples), self.seq_len + 1), np.int64)
        for source, rows in _by_source(samples):
            if len(rows) == len(samples):
                self.windows[source].read(samples[:, 1], out)
                continue
            part = np.empty((len(rows), self.seq_len + 1), np.int64)
            self.windows[source].read(samples[rows, 1], part)
            out[rows] = part
        return out

    def will_need(self, samples: np.ndarray) -> None:
        """Ask the system to read the windows of these samples ahead of their use."""
        for source, rows in _by_source(samples):
            self.windows[source].will_need(samples[rows, 1])

    def epochs_after(self, num_samples: int) -> list[float]:
        """How many times each source has been read after this many samples, in the order of `sources`."""
        drawn = self.blend.counts(num_samples)
        return [count / windows for count, windows in zip(drawn, self.num_windows, strict=True)]

    def indices_of(self, source: int, window: int, limit: int) -> list[int]:
        """Return the sample indices below `limit` that draw this window, in order: the inverse of `samples`."""
        windows = self.num_windows[source]
        epochs = -(-self.blend.counts(limit)[source] // windows)
        inside = [
            int(self._permutation(source, epoch).inverse(np.array([window]))[0]) + epoch * windows
            for epoch in range(epochs)
        ]
        indices = self.blend.inverse(source, np.array(inside, np.int64))
        return [index for index in indices.tolist() if index < limit]

    def windows_with(self, source: int, first: int, end: int) -> Iterable[int]:
        """Return the windows of a source that hold any of its tokens first..end-1."""
        return self.windows[source].windows_with(first, end)

    def _shuffled(self, source: int, positions: np.ndarray) -> np.ndarray:
        """Map positions in a source's endless sequence to windows, each epoch under its own permutation."""
        epochs, inside = np.divmod(positions, self.num_windows[source])
        windows = np.empty_like(positions)
        for epoch in np.unique(epochs).tolist():
            rows = epochs == epoch
            windows[rows] = self._permutation(source, epoch)(inside[rows])
        return windows

    def _permutation(self, source: int, epoch: int) -> Permutation:
        return Permutation(self.num_windows[source], self.seed, self.windows[source].identity, epoch)


def samples_digest(samples: np.ndarray) -> str:
    """Name the global samples [n, 2] of a step in 16 hex digits, for its line in the metrics."""
    return hashlib.blake2b(np.ascontiguousarray(samples, "<i8").tobytes(), digest_size=8).hexdigest()


def _by_source(samples: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Split samples [n, 2] into (source, the rows that draw from it)."""
    for source in np.unique(samples[:, 0]).tolist():
        yield source, np.flatnonzero(samples[:, 0] == source)


def _check(sources: list[ShardSet]) -> None:
    for shards in sources:
        if shards.manifest.tokenizer_sha256 != sources[0].manifest.tokenizer_sha256:
            raise DataError(
                f"{shards.prefix} and {sources[0].prefix} were made by different tokenizers; "
                "tokenize one of them again."
            )
    for one, other in pairwise(sources):
        if one.digest == other.digest:
            raise DataError(
                f"{one.prefix} and {other.prefix} hold the same tokens; "
                "give the data once, with the sum of the weights."
            )
