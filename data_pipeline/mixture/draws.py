"""Random draws without a generator: each is a hash of what it is for, so any can be made alone, in any order."""

import hashlib
from functools import lru_cache

import numpy as np

from data_pipeline.mixture.permutation import scramble


def draw(seed: int, purpose: str, *counters: np.ndarray | int) -> np.ndarray:
    """Draw 64 random bits, uint64, for each combination of the counters (integers, broadcast against each other)."""
    key = _key(seed, purpose)
    bits = np.zeros((), np.uint64)
    with np.errstate(over="ignore"):
        for counter in counters:
            bits = scramble(bits ^ np.asarray(counter).astype(np.uint64), key)
    return bits


def uniform(seed: int, purpose: str, *counters: np.ndarray | int) -> np.ndarray:
    """Draw float64 of [0, 1), with 53 random bits."""
    return (draw(seed, purpose, *counters) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def below(n: np.ndarray | int, seed: int, purpose: str, *counters: np.ndarray | int) -> np.ndarray:
    """Draw int64 of 0..n-1; for n below 2^32 no number is more than a part in 2^20 likelier than another."""
    return (uniform(seed, purpose, *counters) * np.asarray(n)).astype(np.int64)


@lru_cache(maxsize=1024)
def _key(seed: int, purpose: str) -> np.uint64:
    return np.frombuffer(hashlib.blake2b(repr((purpose, seed)).encode(), digest_size=8).digest(), "<u8")[0]
