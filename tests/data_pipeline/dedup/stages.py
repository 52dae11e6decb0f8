"""The stages of deduplication one after another, over lists of texts, and what they must find, in plain Python."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.dedup.confirm import confirm
from data_pipeline.dedup.exact import exact_keys, find_exact
from data_pipeline.dedup.minhash import band_hashes
from data_pipeline.dedup.near import find_candidates
from data_pipeline.dedup.runs import unite, write_runs
from data_pipeline.dedup.settings import NearDuplicates


class Lists:
    """Texts in lists, one a task."""

    def __init__(self, tasks: list[list[str]]) -> None:
        self.tasks = tasks

    def read(self, numbers: np.ndarray) -> Iterator[tuple[int, str]]:
        """As confirm.Texts; refuses what its contract forbids."""
        assert numbers.dtype == np.uint64 and (numbers[1:] > numbers[:-1]).all()
        for number in numbers.tolist():
            yield number, self.tasks[number >> 32][number & (2**32 - 1)]


def write_task(folder: Path, task: int, keys: np.ndarray, bands: np.ndarray, memory: int) -> Path:
    """Make a task's folder of sorted runs from its hashes."""
    folder.mkdir(parents=True)
    (folder / "keys.raw").write_bytes(keys.astype("<u8").tobytes())
    (folder / "bands.raw").write_bytes(bands.astype("<u8").tobytes())
    write_runs(folder, task, folder / "keys.raw", folder / "bands.raw", bands.shape[1], memory)
    return folder


def deduplicate(
    tasks: list[list[str]], near: NearDuplicates, folder: Path, parts: int = 1, memory: int = 2**26
) -> tuple[list[int], list[tuple[int, int, float]]]:
    """Run all stages; return the places of exact duplicates and (later, earlier, jaccard) of the near ones.

    Places count over all tasks, so that they are the same however the texts are split.
    """
    runs = [
        write_task(folder / f"task{task}", task, exact_keys(texts), band_hashes(texts, near), memory)
        for task, texts in enumerate(tasks)
    ]
    exact = [folder / f"exact{part}.npy" for part in range(parts)]
    for part, path in enumerate(exact):
        find_exact(runs, part, parts, memory, path)
    unite(exact, folder / "dropped.npy", memory)
    pairs = [folder / f"pairs{band}_{part}.npy" for band in range(near.bands) for part in range(parts)]
    for number, path in enumerate(pairs):
        band, part = divmod(number, parts)
        find_candidates(runs, near.bands, band, part, parts, folder / "dropped.npy", memory, path)
    rows = []
    for task in range(len(tasks)):
        confirm(pairs, task << 32, (task + 1) << 32, Lists(tasks), near, memory, folder / f"near{task}.npy")
        rows += np.load(folder / f"near{task}.npy").tolist()
    before = np.cumsum([0, *map(len, tasks)]).tolist()

    def place(number: int) -> int:
        return before[number >> 32] + (number & (2**32 - 1))

    dropped = np.load(folder / "dropped.npy").tolist()
    return [place(number) for number in dropped], [(place(one), place(other), share) for one, other, share in rows]


def words_shingles(text: str, ngram: int) -> frozenset[tuple[str, ...]]:
    """The set of shingles of a text of words and spaces."""
    words = text.casefold().split()
    return frozenset(tuple(words[i : i + ngram]) for i in range(max(1, len(words) - ngram + 1)) if words)


def similarity(one: frozenset, other: frozenset) -> float:
    """Jaccard, of two empty sets 0."""
    return len(one & other) / len(one | other) if one and other else 0.0


def expected(texts: list[str], near: NearDuplicates) -> tuple[list[int], list[tuple[int, int, float]]]:
    """What `deduplicate` must return for texts of words and spaces, given the band hashes."""
    first: dict[str, int] = {}
    for place, text in enumerate(texts):
        first.setdefault(" ".join(text.casefold().split()), place)
    stay = sorted(first.values())
    hashes = band_hashes(texts, near)
    edges = set()
    for band in range(near.bands):
        buckets: dict[int, list[int]] = {}
        for place in stay:
            bucket = buckets.setdefault(int(hashes[place, band]), [])
            edges |= {(place, other) for other in (bucket[:1] + bucket[-1:])}
            bucket.append(place)
    found: dict[int, tuple[int, int, float]] = {}
    sets = [words_shingles(text, near.ngram) for text in texts]
    for later, earlier in sorted(edges):
        share = similarity(sets[later], sets[earlier])
        if share >= near.threshold and later not in found:
            found[later] = (later, earlier, float(np.float32(share)))
    return sorted(set(range(len(texts))) - set(stay)), list(found.values())
