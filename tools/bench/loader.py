"""How fast batches come: tokens/s of one process on warm data, through the same Loader.batch that training uses."""

import time
from typing import Any

from data_pipeline.mixture import Loader, Mixture

_TOKENS_PER_BATCH = 2**19


def measure_loader(mixture: Mixture, global_batch_size: int | None = None, seconds: float = 2.0) -> dict[str, Any]:
    """Draw batches for `seconds` and count; the pages are warmed first by the batches of the same steps.

    Unset, global_batch_size makes batches of about half a million tokens. Returns tokens_per_second,
    samples_per_second, milliseconds_per_batch, and what was measured: seq_len, global_batch_size, batches, seconds,
    sources.
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
