"""What happened to the documents, as numbers that add up over tasks."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

Counts = dict[str, Any]
"""Values are ints, floats, lists of ints (histograms, one bin a power of two), lists of dicts (examples), or Counts."""
EXAMPLES = 5
"""Of each kind of rejection this many are kept."""


def merged(many: Iterable[Counts]) -> Counts:
    """Add counts up; of examples the first ones stay."""
    total: Counts = {}
    for counts in many:
        add(total, counts)
    return total


def add(total: Counts, more: Counts) -> None:
    """Add `more` to `total`, in place."""
    for key, value in more.items():
        if isinstance(value, dict):
            add(total.setdefault(key, {}), value)
        elif isinstance(value, list):
            total[key] = _joined(total.get(key, []), value)
        else:
            total[key] = total.get(key, 0) + value


def _joined(one: list, other: list) -> list:
    if any(isinstance(item, dict) for item in [*one[:1], *other[:1]]):
        return [*one, *other][:EXAMPLES]
    short, long = sorted((one, other), key=len)
    return [value + (short[place] if place < len(short) else 0) for place, value in enumerate(long)]


def count(counts: Counts, *path: str, by: float = 1) -> None:
    """Add to the number at a path of keys."""
    for key in path[:-1]:
        counts = counts.setdefault(key, {})
    counts[path[-1]] = counts.get(path[-1], 0) + by


def observe(counts: Counts, name: str, values: Sequence[int] | np.ndarray) -> None:
    """Count values in a histogram: bin b holds the values of b bits, so 0, 1, 2-3, 4-7, ..."""
    _, bits = np.frexp(np.asarray(values, np.float64))
    add(counts, {name: np.bincount(bits).tolist()})


def example(counts: Counts, kind: str, **fields: Any) -> None:
    """Keep an example of a kind, unless there are enough."""
    kept = counts.setdefault("examples", {}).setdefault(kind, [])
    if len(kept) < EXAMPLES:
        kept.append(fields)
