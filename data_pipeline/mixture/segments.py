"""A blend that changes: from some samples on, other weights. Closed form, like the blend itself.

Each segment has a blend of its own. A source's samples are counted through all of them: where a segment begins, each
source goes on from the exact whole number of samples that the segments before have drawn of it. So no change of the
weights repeats or skips a source's data, and a segment that is appended changes nothing before it.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from data_pipeline.mixture.blend import Blend

Weight = float | Fraction


class Segment(NamedTuple):
    """Weights that hold from a sample on, until the next segment."""

    first: int
    """Number of its first sample."""
    weights: Sequence[Weight]
    """One for each source, in the order in which the sources are given; 0: nothing of it."""


class _Part:
    """A segment and what came before it."""

    def __init__(self, first: int, weights: Mapping[int, Weight], before: list[int]) -> None:
        self.first = first
        self.before = np.array(before, np.int64)
        """Samples that each source has given before this segment, int64 [sources]."""
        self.sources = np.array(sorted(weights), np.int64)
        """Those that it draws from, ascending; the blend counts them from 0."""
        self.blend = Blend([weights[source] for source in self.sources.tolist()])

    def counts(self, samples: int) -> list[int]:
        """Samples of each source before the global sample `samples`, which is not before this segment."""
        counts = self.before.copy()
        counts[self.sources] += self.blend.counts(samples - self.first)
        return counts.tolist()


class Segments:
    """Interleaves sources by weights that change at given samples; a Blend is the case of one segment."""

    def __init__(self, segments: Mapping[int, Mapping[int, Weight]], num_sources: int) -> None:
        """Take the first sample of each segment, ascending from 0, with the positive weights of its sources."""
        if not segments or list(segments) != sorted(segments) or next(iter(segments)) != 0:
            raise ValueError(f"segments must ascend from sample 0: {list(segments)}")
        self._parts: list[_Part] = []
        before = [0] * num_sources
        for first, weights in segments.items():
            before = self.counts(first) if self._parts else before
            self._parts.append(_Part(first, weights, before))
        self._firsts = np.array(list(segments), np.int64)

    def __call__(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map sample indices int64 [n] to (source [n], how many samples that source gave before [n]), both int64."""
        samples = np.asarray(samples, np.int64)
        sources, positions = np.empty_like(samples), np.empty_like(samples)
        numbers = np.searchsorted(self._firsts, samples, side="right") - 1
        for number in np.unique(numbers).tolist():
            rows, part = np.flatnonzero(numbers == number), self._parts[number]
            local, drawn = part.blend(samples[rows] - part.first)
            sources[rows] = part.sources[local]
            positions[rows] = part.before[sources[rows]] + drawn
        return sources, positions

    def inverse(self, source: int, positions: np.ndarray) -> np.ndarray:
        """Map positions int64 [n] within a source to the samples that draw them; -1 where no sample ever does."""
        positions = np.asarray(positions, np.int64)
        samples = np.full_like(positions, -1)
        for number, part in enumerate(self._parts):
            local = np.flatnonzero(part.sources == source)
            if not len(local):
                continue
            inside = positions >= part.before[source]
            if number + 1 < len(self._parts):
                inside &= positions < self._parts[number + 1].before[source]
            drawn = positions[inside] - part.before[source]
            samples[inside] = part.first + part.blend.inverse(int(local[0]), drawn)
        return samples

    def counts(self, samples: int) -> list[int]:
        """Say how many of the first `samples` samples each source gives."""
        return next(part for part in reversed(self._parts) if part.first <= samples).counts(samples)

    def quotas(self) -> list[tuple[int, dict[int, int]]]:
        """The order in whole numbers: the first sample of each segment, and the quota of each of its sources."""
        return [(part.first, dict(zip(part.sources.tolist(), part.blend.quotas, strict=True))) for part in self._parts]
