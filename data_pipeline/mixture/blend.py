"""Which source gives the sample at an index, and which of its samples that is: closed form, no index, no randomness.

Weights become whole quotas that sum to PERIOD. The sources are the leaves of a binary tree. At a node whose left side
has quota a of a total t, floor(m * a / t) of the first m arrivals go left (Bresenham's line), the others right. So the
share of every source is right not only on average but at any point, to within about one sample a level, and each
source's own samples come strictly in order: an epoch of a small source ends before its next begins. Both directions
are integer arithmetic.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

PERIOD = 2**20


def quotas(weights: Sequence[float | Fraction]) -> list[int]:
    """Round weights to whole numbers >= 1 that sum to PERIOD, by largest remainder (of equal ones, the earlier)."""
    if not weights or min(weights) <= 0:
        raise ValueError(f"weights must be positive: {list(weights)}")
    spare = PERIOD - len(weights)
    total = sum(Fraction(weight) for weight in weights)
    exact = [spare * Fraction(weight) / total for weight in weights]
    whole = [int(share) for share in exact]
    by_remainder = sorted(range(len(weights)), key=lambda k: (whole[k] - exact[k], k))
    for k in by_remainder[: spare - sum(whole)]:
        whole[k] += 1
    return [1 + share for share in whole]


class Blend:
    """Interleaves K sources by weight."""

    def __init__(self, weights: Sequence[float | Fraction]) -> None:
        """Take one positive weight a source; only their proportions count."""
        self.quotas = quotas(weights)
        self._sums = [0, *np.cumsum(self.quotas).tolist()]

    def __call__(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Map sample indices int64 [n] to (source [n], position within that source [n]), both int64."""
        sources = np.zeros(len(samples), np.int64)
        positions = np.asarray(samples, np.int64).copy()
        self._descend(np.arange(len(samples)), 0, len(self.quotas), sources, positions)
        return sources, positions

    def inverse(self, source: int, positions: np.ndarray) -> np.ndarray:
        """Map positions int64 [n] within a source to the sample indices that draw them."""
        path = []
        first, end = 0, len(self.quotas)
        while end - first > 1:
            middle = (first + end) // 2
            path.append((first, middle, end))
            first, end = (first, middle) if source < middle else (middle, end)
        positions = np.asarray(positions, np.int64)
        for first, middle, end in reversed(path):
            positions = self._ascend(positions, first, middle, end, left=source < middle)
        return positions

    def counts(self, samples: int) -> list[int]:
        """Say how many of the first `samples` samples each source gives."""
        counts = [0] * len(self.quotas)

        def share(arrivals: int, first: int, end: int) -> None:
            if end - first == 1:
                counts[first] = arrivals
                return
            middle = (first + end) // 2
            left = arrivals * self._quota(first, middle) // self._quota(first, end)
            share(left, first, middle)
            share(arrivals - left, middle, end)

        share(samples, 0, len(counts))
        return counts

    def _quota(self, first: int, end: int) -> int:
        """Quota of sources first..end-1 together."""
        return self._sums[end] - self._sums[first]

    def _descend(self, rows: np.ndarray, first: int, end: int, sources: np.ndarray, positions: np.ndarray) -> None:
        """Send the arrivals `rows` at the node of sources first..end-1 down to its leaves, in place."""
        if end - first == 1:
            sources[rows] = first
            return
        middle = (first + end) // 2
        arrivals = positions[rows]
        left, total = self._quota(first, middle), self._quota(first, end)
        before, after = _share(arrivals, left, total), _share(arrivals + 1, left, total)
        goes_left = after > before
        positions[rows] = np.where(goes_left, before, arrivals - before)
        if goes_left.any():
            self._descend(rows[goes_left], first, middle, sources, positions)
        if not goes_left.all():
            self._descend(rows[~goes_left], middle, end, sources, positions)

    def _ascend(self, positions: np.ndarray, first: int, middle: int, end: int, left: bool) -> np.ndarray:
        """Find the arrival at a node that became the given position on its left or right side."""
        total = self._quota(first, end)
        quota = self._quota(first, middle) if left else self._quota(middle, end)
        periods, rest = np.divmod(positions, quota)
        if left:
            arrival = -((-(rest + 1) * total) // quota) - 1
        else:
            arrival = rest * total // quota
        return periods * total + arrival


def _share(arrivals: np.ndarray, left: int, total: int) -> np.ndarray:
    """floor(arrivals * left / total), without overflow for arrivals up to 2^62."""
    periods, rest = np.divmod(arrivals, total)
    return periods * left + rest * left // total
