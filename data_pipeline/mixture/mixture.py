"""The order of the data: from a sample index to a window of tokens, as a pure function of (seed, index).

Segments: sample i is the j-th sample of source k. Permutation: of the n windows of that source, a shuffle keyed by the
epoch j // n picks the (j % n)-th. Window: `windows` says which tokens of the source it is. Sources are known by the
digests of their tokens, so neither paths nor the order of a list matter.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.mixture.masking import ids_of
from data_pipeline.mixture.permutation import Permutation
from data_pipeline.mixture.segments import Segment, Segments, Weight
from data_pipeline.mixture.skip import Skipped
from data_pipeline.mixture.windows import Windows
from data_pipeline.shards import ShardSet


class Mixture:
    """A weighted, shuffled, endless sequence of windows over several shard sets. Holds no state but its settings."""

    def __init__(
        self,
        sources: Sequence[tuple[ShardSet, Weight]],
        seq_len: int,
        seed: int,
        segments: Sequence[Segment] = (),
        cut: Callable[[ShardSet, int], Windows] = Windows,
    ) -> None:
        """Blend opened shard sets. DataError when one is too short, given twice, or made by another tokenizer.

        Args:
            sources: shard sets with the weights that hold until the first of `segments` begins; 0 for a source that
                only a segment draws from.
            seq_len: tokens that a sample has as inputs.
            seed: keys the shuffles.
            segments: the weights that hold later on, each from its first sample.
            cut: makes a shard set's windows of seq_len.
        """
        weights = _effective(Segment(0, [weight for _, weight in sources]), segments)
        opened = [shards for shards, _ in sources]
        _check(opened)
        order, self.segments = alternate([shards.digest for shards in opened], weights)
        self.sources = [opened[given] for given in order]
        """By the segment that draws them first, those of one segment by their digests: appending a segment moves none.
        The source index in `samples` points in here."""
        self.seq_len, self.seed = seq_len, seed
        self.windows = [cut(shards, seq_len) for shards in self.sources]
        """How each source is cut into windows."""
        self.num_windows = [windows.num_windows for windows in self.windows]
        """Windows in one epoch of each source."""
        self.skipped: dict[int, Skipped] = {}
        """Documents that are left out, by source; see `skip`."""

    @classmethod
    def open(
        cls,
        sources: Sequence[tuple[str | Path, Weight]],
        seq_len: int,
        seed: int,
        tokenizer_digest: str | None = None,
        segments: Sequence[Segment] = (),
    ) -> "Mixture":
        """Open (prefix, weight) pairs; reads their manifests and nothing else.

        With `tokenizer_digest`, DataError when a set was made by another tokenizer.
        """
        opened = open_sets([prefix for prefix, _ in sources], tokenizer_digest)
        return cls(list(zip(opened, (weight for _, weight in sources), strict=True)), seq_len, seed, segments)

    def samples(self, first: int, count: int) -> np.ndarray:
        """Return int64 [count, 2]: (source, window) of `count` samples from `first` on, in O(count)."""
        sources, positions = self.segments(np.arange(first, first + count, dtype=np.int64))
        windows = np.empty(count, np.int64)
        for source in np.unique(sources).tolist():
            rows = np.flatnonzero(sources == source)
            windows[rows] = self._shuffled(source, positions[rows])
        return np.stack([sources, windows], axis=1)

    def read(self, samples: np.ndarray) -> np.ndarray:
        """Return the tokens of samples [n, 2], int64 [n, seq_len + 1]; one that is no target as ~id (see `masking`)."""
        out = np.empty((len(samples), self.seq_len + 1), np.int64)
        for source, rows in _by_source(samples):
            windows, mine = samples[rows, 1], [out[row] for row in rows.tolist()]
            self.windows[source].read(windows, mine)
            if source in self.skipped:
                self.skipped[source].hide(windows, mine)
        vocab_size = self.sources[0].manifest.vocab_size  # one tokenizer made them all
        if out.size and (out.max() >= vocab_size or out.min() < -vocab_size):
            raise self._damaged(samples, out)
        return out

    def num_targets(self, samples: np.ndarray) -> int:
        """Count the targets in samples [n, 2] without reading them: every rank knows the whole step's."""
        targets = 0
        for source, rows in _by_source(samples):
            targets += int(self.windows[source].num_targets(samples[rows, 1]).sum())
            if source in self.skipped:
                targets -= self.skipped[source].num_targets(samples[rows, 1])
        return targets

    def skip(self, source: int, documents: Iterable[range]) -> None:
        """Leave out documents of a source by their numbers: their tokens are neither inputs nor targets.

        No sample moves: the windows that hold them are drawn as before.
        """
        self.skipped[source] = Skipped(self.windows[source], documents)

    def will_need(self, samples: np.ndarray) -> None:
        """Ask the system to read the windows of these samples ahead of their use."""
        for source, rows in _by_source(samples):
            self.windows[source].will_need(samples[rows, 1])

    def epochs_after(self, num_samples: int) -> list[float]:
        """How many times each source has been read after this many samples, in the order of `sources`."""
        drawn = self.segments.counts(num_samples)
        return [count / windows for count, windows in zip(drawn, self.num_windows, strict=True)]

    def indices_of(self, source: int, window: int, limit: int) -> list[int]:
        """Return the sample indices below `limit` that draw this window, in order: the inverse of `samples`."""
        windows = self.num_windows[source]
        epochs = -(-self.segments.counts(limit)[source] // windows)
        inside = [
            int(self._permutation(source, epoch).inverse(np.array([window]))[0]) + epoch * windows
            for epoch in range(epochs)
        ]
        indices = self.segments.inverse(source, np.array(inside, np.int64))
        return [index for index in indices.tolist() if 0 <= index < limit]

    def windows_with(self, source: int, first: int, end: int) -> Iterable[int]:
        """Return the windows of a source that hold any of its tokens first..end-1."""
        return self.windows[source].windows_with(first, end)

    def _damaged(self, samples: np.ndarray, rows: np.ndarray) -> DataError:
        """What to say of rows with an id that no model knows: as an index it would end the run in a traceback."""
        ids, vocab_size = ids_of(rows), self.sources[0].manifest.vocab_size
        row, column = np.argwhere(ids >= vocab_size)[0].tolist()
        shards = self.sources[samples[row, 0]]
        return DataError(
            f"{shards.prefix} holds the id {ids[row, column]} in window {samples[row, 1]}, its tokenizer has "
            f"{vocab_size:,} ids: a token file is damaged; `megamodel data verify {shards.prefix}` tells which. "
            "Bring it back or prepare the data again."
        )

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


def alternate(digests: Sequence[str], weights: Mapping[int, Mapping[int, Weight]]) -> tuple[list[int], Segments]:
    """Say in which order the sources stand, and how they take turns, numbered in that order.

    Those that are drawn at all: by the first segment that draws them, then by digest.

    Args:
        digests: one for each source.
        weights: the positive weights by source, from each sample on at which they change.
    """
    order: list[int] = []
    for some in weights.values():
        order += sorted(some.keys() - order, key=lambda given: digests[given])
    number = {given: source for source, given in enumerate(order)}
    numbered = {first: {number[given]: weight for given, weight in some.items()} for first, some in weights.items()}
    return order, Segments(numbered, len(order))


def open_sets(prefixes: Sequence[str | Path], tokenizer_digest: str | None = None) -> list[ShardSet]:
    """Open shard sets; with `tokenizer_digest`, DataError when one was made by another tokenizer."""
    opened = [ShardSet.open(prefix) for prefix in prefixes]
    for shards in opened:
        made_by = shards.manifest.tokenizer_sha256
        if tokenizer_digest is not None and made_by != tokenizer_digest:
            raise DataError(
                f"{shards.prefix} was made by another tokenizer (sha256 {made_by[:12]}...) than the one configured "
                f"({tokenizer_digest[:12]}...); point data.tokenizer at the one that made it, or tokenize again."
            )
    return opened


def _effective(base: Segment, segments: Sequence[Segment]) -> dict[int, dict[int, Weight]]:
    """The positive weights by source, from each sample on at which they change."""
    weights: dict[int, dict[int, Weight]] = {}
    for segment in (base, *segments):
        if segment.first < max(weights, default=0):
            raise DataError(
                f"a segment that begins with sample {segment.first:,} stands behind one that begins later; "
                "give the segments in the order in which they begin."
            )
        if min(segment.weights, default=0) < 0:
            raise DataError(f"weights from sample {segment.first:,} on: {min(segment.weights)} is below 0.")
        weights[segment.first] = {given: weight for given, weight in enumerate(segment.weights) if weight > 0}
    for first, some in weights.items():
        if not some:
            raise DataError(
                f"no source has a weight above 0 from sample {first:,} on; a mixture needs at least one shard set."
            )
    return weights


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
    for one, other in pairwise(sorted(sources, key=lambda shards: shards.digest)):
        if one.digest == other.digest:
            raise DataError(
                f"{one.prefix} and {other.prefix} hold the same tokens; "
                "give the data once, with the sum of the weights."
            )
