"""Which documents share a window: best-fit packing, which cuts no document that fits into one (arXiv:2404.10830).

A window is a row of seq_len + 1 tokens. A document of up to seq_len + 1 tokens is one piece. A longer one is cut every
seq_len tokens into pieces of seq_len + 1, each beginning with the last token of the one before, and a shorter rest: so
each step from one token of a document to the next lies in exactly one window. The first token of a piece is read but
is no target: what it follows is in another window, or nowhere. A document of one token has no target and no window.
"""

import numpy as np

from data_pipeline.mixture.best_fit import best_fit
from data_pipeline.mixture.permutation import scramble

PIECE = np.dtype([("first", "<i8"), ("length", "<i4")])
"""Consecutive tokens of one document: the place of the first in the shard set, and how many."""


def pack(lengths: np.ndarray, first: int, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Pack consecutive documents, int [n] tokens each, the first of them beginning at place `first` of the set.

    Returns the pieces, PIECE [m], window by window, and the number of pieces in each window, int64 [windows].
    """
    lengths = lengths.astype(np.int64)
    starts = first + np.cumsum(lengths) - lengths
    whole, rest = cut(lengths, seq_len)
    full = _full_windows(starts, whole, seq_len)
    remaining = np.flatnonzero(rest > 1)
    items, ends = best_fit(rest[remaining], seq_len + 1)
    packed = np.empty(len(items), PIECE)
    documents = remaining[items]
    packed["first"], packed["length"] = starts[documents] + whole[documents] * seq_len, rest[documents]
    counts = np.concatenate([np.ones(len(full), np.int64), np.diff(ends, prepend=0)])
    return np.concatenate([full, packed]), counts


def cut(lengths: np.ndarray, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
    """Say into how many whole windows each document is cut, and how many tokens its rest has (1 or less: no rest)."""
    whole = np.where(lengths > seq_len + 1, (lengths - 1) // seq_len, 0)
    return whole, lengths - whole * seq_len


def checks(pieces: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Digest the pieces of each window, uint32 [windows], so that a damaged plan is noticed when a window is read."""
    first, length = pieces["first"].astype(np.uint64), pieces["length"].astype(np.uint64)
    digests = scramble(scramble(first, _KEYS[0]) + length, _KEYS[1])
    if not len(counts):
        return np.empty(0, np.uint32)
    return np.add.reduceat(digests, np.cumsum(counts) - counts).astype(np.uint32)


_KEYS = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xD1B54A32D192ED03))


def _full_windows(starts: np.ndarray, whole: np.ndarray, seq_len: int) -> np.ndarray:
    """The pieces that fill a window alone."""
    documents = np.repeat(np.arange(len(whole)), whole)
    number = np.arange(len(documents)) - np.repeat(np.cumsum(whole) - whole, whole)
    pieces = np.empty(len(documents), PIECE)
    pieces["first"], pieces["length"] = starts[documents] + number * seq_len, seq_len + 1
    return pieces
