"""Best-fit decreasing: the longest item first, each into the fullest bin that still has room for it.

Johnson 1973; for packing documents into training sequences Ding et al. 2024 (arXiv:2404.10830). Items of equal length
and bins of equal room are handled together, so that the cost follows the number of different lengths, not of items.
"""

import numpy as np

_WORD = 512
"""Bits in one word of the set of rooms."""


class _Rooms:
    """The bins that have some room left, by that room: consecutive bins with equal room are one range."""

    def __init__(self, capacity: int) -> None:
        self._ranges: dict[int, list[tuple[int, int]]] = {}
        self._words = [0] * (capacity // _WORD + 1)
        self._used_words = 0

    def add(self, room: int, first: int, end: int) -> None:
        """Bins first..end-1 have `room` left."""
        if first < end:
            self._ranges.setdefault(room, []).append((first, end))
            self._words[room // _WORD] |= 1 << room % _WORD
            self._used_words |= 1 << room // _WORD

    def take(self, room: int, most: int) -> tuple[int, int]:
        """Take up to `most` bins (first, end) of those with exactly this room."""
        ranges = self._ranges[room]
        first, end = ranges.pop()
        if end - first > most:
            ranges.append((first + most, end))
            end = first + most
        if not ranges:
            self._forget(room)
        return first, end

    def smallest(self, least: int) -> int | None:
        """Return the smallest room of at least `least` that some bin has."""
        word = self._words[least // _WORD] >> least % _WORD
        if word:
            return least + _lowest_bit(word)
        later = self._used_words >> (least // _WORD + 1)
        if not later:
            return None
        number = least // _WORD + 1 + _lowest_bit(later)
        return number * _WORD + _lowest_bit(self._words[number])

    def _forget(self, room: int) -> None:
        self._words[room // _WORD] &= ~(1 << room % _WORD)
        if not self._words[room // _WORD]:
            self._used_words &= ~(1 << room // _WORD)


def best_fit(lengths: np.ndarray, capacity: int) -> tuple[np.ndarray, np.ndarray]:
    """Pack items of the given lengths, int [n] of 1..capacity, into as few bins as best-fit decreasing needs.

    Returns (items int64 [n], ends int64 [bins]): bin b holds items[ends[b - 1] : ends[b]], the longest first.
    """
    longest_first = np.argsort(_sortable(capacity - lengths, capacity), kind="stable")
    counts = np.bincount(lengths, minlength=1)
    descending = np.flatnonzero(counts)[::-1]
    placed = np.array(_place(descending.tolist(), counts[descending].tolist(), capacity), np.int64).reshape(-1, 3)
    first_bin, per_bin, items = placed.T
    number = np.arange(len(lengths)) - np.repeat(np.cumsum(items) - items, items)
    bins = np.repeat(first_bin, items) + number // np.repeat(per_bin, items)
    return longest_first[np.argsort(bins, kind="stable")], np.cumsum(np.bincount(bins))


def _place(lengths: list[int], counts: list[int], capacity: int) -> list[tuple[int, int, int]]:
    """Place each count of items of each length, descending: (first bin, items a bin, items) for consecutive items.

    A bin that is the best fit stays it until it has no room for another item of that length.
    """
    rooms, num_bins = _Rooms(capacity), 0
    placed = []
    for length, count in zip(lengths, counts, strict=True):
        while count:
            room = rooms.smallest(length)
            per_bin = (room or capacity) // length
            wanted = -(-count // per_bin)
            if room is None:
                room, first, end = capacity, num_bins, num_bins + wanted
                num_bins = end
            else:
                first, end = rooms.take(room, wanted)
            items = min(count, (end - first) * per_bin)
            placed.append((first, per_bin, items))
            full, rest = divmod(items, per_bin)
            rooms.add(room - per_bin * length, first, first + full)
            rooms.add(room - rest * length, first + full, end)
            count -= items
    return placed


def _lowest_bit(word: int) -> int:
    return (word & -word).bit_length() - 1


def _sortable(keys: np.ndarray, largest: int) -> np.ndarray:
    """The narrowest type: numpy sorts 16 bits by counting."""
    return keys.astype(np.uint16 if largest < 2**16 else np.uint32)
