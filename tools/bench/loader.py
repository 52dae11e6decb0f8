"""How fast batches come: the loader that training uses beside other ways of reading the same windows, cold and warm."""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from data_pipeline.mixture import Loader, Mixture
from data_pipeline.mixture.packed import PackedWindows
from data_pipeline.shards import ShardSet
from tools.bench.ways_of_reading import Read, Ways, Window, bytes_delivered, forget

_TOKENS_PER_BATCH = 2**19
_MOST_BYTES = 2**29
"""Of the token files, read in one measurement at most: what is measured warm must fit into memory."""
OURS = "megamodel"


def measure_loader(mixture: Mixture, global_batch_size: int | None = None, seconds: float = 2.0) -> dict[str, Any]:
    """Draw batches for `seconds` and count; the pages are warmed first by the batches of the same steps.

    Unset, global_batch_size makes batches of about half a million tokens. Returns tokens_per_second,
    samples_per_second, milliseconds_per_batch, and what was measured: seq_len, global_batch_size, packed, batches,
    seconds, sources.
    """
    size = global_batch_size or max(1, _TOKENS_PER_BATCH // mixture.seq_len)
    loader = Loader(mixture, size)
    steps = _draw(loader, seconds / 4)
    start = time.perf_counter()
    batches = 0
    while (elapsed := time.perf_counter() - start) < seconds:
        loader.batch(1 + batches % steps)
        batches += 1
    return {
        "tokens_per_second": batches * size * mixture.seq_len / elapsed,
        "samples_per_second": batches * size / elapsed,
        "milliseconds_per_batch": 1e3 * elapsed / batches,
        "seq_len": mixture.seq_len,
        "global_batch_size": size,
        "packed": any(isinstance(windows, PackedWindows) for windows in mixture.windows),
        "batches": batches,
        "seconds": elapsed,
        "sources": [str(shards.prefix) for shards in mixture.sources],
    }


def _draw(loader: Loader, seconds: float) -> int:
    """Draw the batches of steps 1, 2, ... for a while; return how many."""
    step, end = 0, time.perf_counter() + seconds
    while step == 0 or time.perf_counter() < end:
        step += 1
        loader.batch(step)
    return step


def compare_ways(
    open_mixture: Callable[[], Mixture], global_batch_size: int | None = None, seconds: float = 1.0, rounds: int = 3
) -> list[dict[str, Any]]:
    """Measure the loader (a thread that reads ahead) and every other way (in one thread), cold and warm.

    Each measurement draws the same batches of contiguous windows (where the mixture packs documents, the loader draws
    as many rows of those), for `seconds` or until half a gigabyte is read; the figures are medians of `rounds`, and the
    ways take turns. One dict a way: way, cold and warm (tokens a second; cold is None where the files cannot be dropped
    from memory), cold_ratio and warm_ratio (the loader's rate over the way's), moved_per_asked (bytes that the disk
    delivered for each byte of tokens, cold).
    """
    plan = _Plan(open_mixture(), global_batch_size)
    measures = {OURS: lambda: _Ours(open_mixture(), plan)} | {
        name: lambda opened=opened: _Other(opened(), plan) for name, opened in plan.ways.all().items()
    }
    rates: dict[str, dict[str, list[float]]] = {name: {"cold": [], "warm": [], "moved": []} for name in measures}
    for _ in range(rounds):
        for name, opened in measures.items():
            _measure(opened, plan, seconds, rates[name])
    return _table(rates)


class _Plan:
    """Which windows are read, batch by batch."""

    def __init__(self, mixture: Mixture, global_batch_size: int | None) -> None:
        self.size = global_batch_size or max(1, _TOKENS_PER_BATCH // mixture.seq_len)
        self.seq_len = mixture.seq_len
        dtype = np.dtype(mixture.sources[0].manifest.dtype).newbyteorder("<")
        self.ways = Ways(dtype, mixture.seq_len + 1)
        self.paths = [path for shards in mixture.sources for path in _bins(shards)]
        per_batch = self.size * self.ways.size
        windows = sum(mixture.num_windows)
        self.batches = max(1, min(_MOST_BYTES // per_batch, windows // self.size))
        loader = Loader(mixture, self.size)
        self.windows = [_windows(mixture, loader.samples(step + 1)) for step in range(self.batches)]


def _bins(shards: ShardSet) -> list[Path]:
    return [shards.prefix.parent / record.bin.name for record in shards.manifest.shards]


def _windows(mixture: Mixture, samples: np.ndarray) -> list[Window]:
    """Where the windows of samples [n, 2] lie; one that goes on in the next shard is moved to its file's end."""
    found = []
    length = mixture.seq_len + 1
    for source, window in samples.tolist():
        shards = mixture.sources[source]
        first = window * mixture.seq_len
        for record in shards.manifest.shards:
            if first < record.num_tokens:
                break
            first -= record.num_tokens
        found.append(Window(shards.prefix.parent / record.bin.name, max(0, min(first, record.num_tokens - length))))
    return found


class _Ours:
    """The loader, reading ahead in its thread."""

    def __init__(self, mixture: Mixture, plan: _Plan) -> None:
        self._loader, self._plan = Loader(mixture, plan.size), plan

    def batches(self) -> Iterator[object]:
        return self._loader.batches(1, self._plan.batches)


class _Other:
    """Another way, batch after batch in this thread."""

    def __init__(self, read: Read, plan: _Plan) -> None:
        self._read, self._plan = read, plan

    def batches(self) -> Iterator[object]:
        nothing: Sequence[Window] = ()
        for windows, following in zip(self._plan.windows, [*self._plan.windows[1:], nothing], strict=True):
            yield self._read(windows, following)


def _measure(opened: Callable[[], _Ours | _Other], plan: _Plan, seconds: float, rates: dict[str, list[float]]) -> None:
    """One round of a way: cold, then warm with the same batches."""
    gc.collect()  # maps of the way before keep pages in memory
    forget(plan.paths)
    before = bytes_delivered()
    cold, batches = _rate(opened(), plan, seconds)
    moved = (bytes_delivered() - before) / (batches * plan.size * plan.ways.size)
    if moved > 0.5:
        rates["cold"].append(cold)
        rates["moved"].append(moved)
    for path in plan.paths:
        _warm(path)
    rates["warm"].append(_rate(opened(), plan, seconds)[0])


def _rate(way: _Ours | _Other, plan: _Plan, seconds: float) -> tuple[float, int]:
    """Tokens a second, and the batches drawn."""
    batches, start = 0, time.perf_counter()
    drawn = way.batches()
    for _ in drawn:
        batches += 1
        if time.perf_counter() - start >= seconds:
            break
    elapsed = time.perf_counter() - start
    del drawn
    return batches * plan.size * plan.seq_len / elapsed, batches


def _warm(path: Path) -> None:
    with path.open("rb", buffering=0) as file:
        done = 0
        while done < 4 * _MOST_BYTES and (data := file.read(1 << 24)):
            done += len(data)


def _table(rates: dict[str, dict[str, list[float]]]) -> list[dict[str, Any]]:
    middle = {name: {key: median(r) if r else None for key, r in kinds.items()} for name, kinds in rates.items()}
    ours = middle[OURS]

    def ratio(name: str, kind: str) -> float | None:
        mine, theirs = ours[kind], middle[name][kind]
        return mine / theirs if mine and theirs else None

    return [
        {
            "way": name,
            "cold": found["cold"],
            "cold_ratio": ratio(name, "cold"),
            "moved_per_asked": found["moved"],
            "warm": found["warm"],
            "warm_ratio": ratio(name, "warm"),
        }
        for name, found in middle.items()
    ]
