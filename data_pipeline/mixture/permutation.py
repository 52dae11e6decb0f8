"""A shuffle without an index: a keyed permutation of 0..n-1, computed one index at a time.

A Feistel network (Luby and Rackoff 1988) permutes the smallest power of two that holds n; an index that lands at n or
above is sent through again until it falls inside ("cycle walking", Black and Rogaway 2002). That keeps it a bijection
of 0..n-1, and since the power of two is below 2n (from n = 33 on), two passes suffice on average. The cost is the same
at n = 10^6 and at n = 2^62.
"""

import hashlib
from functools import lru_cache

import numpy as np

LARGEST = 2**62
_ROUNDS = 8
_FEWEST_BITS = 6
"""A network over fewer bits has too few distinct round functions: some orders of five things would come too often."""
_MULTIPLIERS = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))


class Permutation:
    """A bijection of 0..n-1 that depends on nothing but n and the key."""

    def __init__(self, n: int, *key: int | str) -> None:
        """Permute 0..n-1, 1 <= n <= 2^62. Any change of any part of the key gives an unrelated permutation."""
        if not 1 <= n <= LARGEST:
            raise ValueError(f"n={n} is outside 1..2^62")
        self.n = n
        bits = max(_FEWEST_BITS, (n - 1).bit_length())
        low = bits // 2
        self._low_bits = np.uint64(low)
        self._low_mask = np.uint64(2**low - 1)
        self._high_mask = np.uint64(2 ** (bits - low) - 1)
        self._keys = _round_keys(key)

    def __call__(self, indices: np.ndarray) -> np.ndarray:
        """Map int64 indices (any shape) of 0..n-1 to int64 of the same shape."""
        return self._walk(indices, inverse=False)

    def inverse(self, indices: np.ndarray) -> np.ndarray:
        """Undo the permutation: inverse(p(i)) == i."""
        return self._walk(indices, inverse=True)

    def _walk(self, indices: np.ndarray, inverse: bool) -> np.ndarray:
        if self.n == 1:  # the walk would come to 0 too, after many rounds
            return np.zeros_like(np.asarray(indices), np.int64)
        network = self._backward if inverse else self._forward
        values = network(np.asarray(indices).astype(np.uint64))
        limit = np.uint64(self.n)
        outside = values >= limit
        while outside.any():
            values[outside] = network(values[outside])
            outside = values >= limit
        return values.astype(np.int64)

    def _forward(self, x: np.ndarray) -> np.ndarray:
        high, low = x >> self._low_bits, x & self._low_mask
        for number, key in enumerate(self._keys):
            if number % 2:
                low = low ^ (scramble(high, key) & self._low_mask)
            else:
                high = high ^ (scramble(low, key) & self._high_mask)
        return (high << self._low_bits) | low

    def _backward(self, x: np.ndarray) -> np.ndarray:
        high, low = x >> self._low_bits, x & self._low_mask
        for number in reversed(range(_ROUNDS)):
            if number % 2:
                low = low ^ (scramble(high, self._keys[number]) & self._low_mask)
            else:
                high = high ^ (scramble(low, self._keys[number]) & self._high_mask)
        return (high << self._low_bits) | low


def scramble(x: np.ndarray, key: np.uint64) -> np.ndarray:
    """Hash 64 bits under a key: the finalizer of splitmix64 (Steele, Lea and Flood 2014)."""
    z = x + key
    z = (z ^ (z >> _SHIFTS[0])) * _MULTIPLIERS[0]
    z = (z ^ (z >> _SHIFTS[1])) * _MULTIPLIERS[1]
    return z ^ (z >> _SHIFTS[2])


@lru_cache(maxsize=4096)
def _round_keys(key: tuple[int | str, ...]) -> tuple[np.uint64, ...]:
    """Derive one 64-bit key a round from the parts of a key."""
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8 * _ROUNDS).digest()
    return tuple(np.frombuffer(digest, "<u8").astype(np.uint64))
