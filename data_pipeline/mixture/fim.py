"""Fill-in-the-middle: documents rearranged so that a decoder learns to write what stands between two texts.

Bavarian et al. 2022 (arXiv:2207.14255), on tokens, inside a window ("context level"): the shards stay as they are, and
what a window holds of a document is rearranged there. Prefix-suffix-middle gives `<prefix> p <suffix> s <middle> m`,
suffix-prefix-middle `<prefix> <suffix> s <middle> p m`, both followed by the end-of-document token that was there.
"""

from dataclasses import dataclass

import numpy as np

from data_pipeline.mixture.draws import below, uniform
from data_pipeline.mixture.masking import ids_of

_SENTINELS = 3
SHORTEST_TEXT = 8
"""Tokens that a piece needs to be rearranged: three make room for the sentinels."""


@dataclass(frozen=True)
class FillInTheMiddle:
    """How often, in which order, and with which tokens."""

    rate: float
    """Share of the documents that are rearranged."""
    spm_rate: float
    """Share of those in the order suffix-prefix-middle."""
    prefix: int
    """Id of the token before the prefix."""
    middle: int
    """Id of the token before the middle."""
    suffix: int
    """Id of the token before the suffix."""
    eos_id: int
    """Id of the token that ends a document."""
    seed: int
    """Seeds the draws."""

    def __call__(self, rows: np.ndarray, samples: np.ndarray) -> None:
        """Rearrange documents in rows int64 [n, seq_len + 1], in place; all follows from (seed, sample, place).

        A row keeps its length: of a rearranged document, the last three tokens before its end are left out, as if the
        window had cut it there. It also keeps its number of targets. A document with tokens that are no targets, other
        than its first, stays as it is.

        Args:
            rows: windows, tokens that are no targets as ~id.
            samples: the sample indices of the rows, int64 [n].
        """
        row, first, end = _texts(rows, self.eos_id)
        chosen = uniform(self.seed, "fim", samples[row], first) < self.rate
        row, first, end = row[chosen], first[chosen], end[chosen]
        spm = uniform(self.seed, "fim spm", samples[row], first) < self.spm_rate
        kept = end - first - _SENTINELS
        cuts = np.sort([below(kept + 1, self.seed, f"fim cut {k}", samples[row], first) for k in (1, 2)], axis=0)
        for n, order in enumerate(spm.tolist()):
            self._rearrange(rows[row[n], first[n] : end[n]], cuts[0, n], cuts[1, n], order)

    def _rearrange(self, text: np.ndarray, begin: int, end: int, spm: bool) -> None:
        """Move the middle, begin..end-1, of a text to its end, in place."""
        kept = ids_of(text[:-_SENTINELS])
        prefix, middle, suffix = kept[:begin], kept[begin:end], kept[end:]
        before, after = (kept[:0], prefix) if spm else (prefix, kept[:0])
        rearranged = np.concatenate([[self.prefix], before, [self.suffix], suffix, [self.middle], after, middle])
        rearranged[0] ^= -1 if text[0] < 0 else 0
        text[:] = rearranged


def _texts(rows: np.ndarray, eos_id: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find the texts to rearrange between ends of documents: their rows, first columns and ends, int64 [m] each.

    They are long enough, and all their tokens but the first are targets.
    """
    ends = np.ones((rows.shape[0], rows.shape[1] + 1), bool)
    np.logical_or(rows == eos_id, rows == ~eos_id, out=ends[:, :-1])
    row, end = np.nonzero(ends)
    first = np.zeros_like(end)
    same = row[1:] == row[:-1]
    first[1:][same] = end[:-1][same] + 1
    long = end - first >= SHORTEST_TEXT
    row, first, end = row[long], first[long], end[long]
    not_targets = np.zeros_like(ends, np.int64)
    np.cumsum(rows < 0, axis=1, out=not_targets[:, 1:])
    wanted = not_targets[row, first + 1] == not_targets[row, end]
    return row[wanted], first[wanted], end[wanted]
