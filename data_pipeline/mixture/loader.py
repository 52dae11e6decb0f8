"""The batch of a step: a pure function of the step, read ahead by a background thread."""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.mixture.mixture import Mixture, samples_digest

_SAMPLES_PLANNED = 4096
"""Samples computed at once: numpy's cost per call is then spread over many small steps."""

Rearrange = Callable[[np.ndarray, np.ndarray], None]
"""Changes rows int64 [n, seq_len + 1] of the samples int64 [n] in place, not where their targets are."""


@dataclass(frozen=True)
class Batch:
    """What one rank needs of one step."""

    step: int
    """Counted from 1."""
    tokens: np.ndarray
    """int64 [global_batch_size / ranks, seq_len + 1]: inputs and, shifted by one, targets; see `masking`.

    Of a step without targets nothing is read, and there are no rows.
    """
    target_tokens: int
    """Targets in the whole step, over all ranks; 0: the step is skipped, or all its documents are."""
    samples_digest: str
    """Digest of the step's global samples: the same on every rank and for any number of ranks."""


class Loader:
    """Batches by step. Step N (from 1) has samples [(N-1) * global_batch_size, N * global_batch_size)."""

    def __init__(
        self,
        mixture: Mixture,
        global_batch_size: int,
        rank: int = 0,
        ranks: int = 1,
        skip_steps: Sequence[range] = (),
        rearrange: Rearrange | None = None,
    ) -> None:
        """Take the rank-th contiguous slice of each step. DataError when the ranks do not divide the batch.

        Steps in `skip_steps` keep their samples and their number, and have no targets. `rearrange` may change the rows
        of samples, given with their indices, but not their number of targets: see `fim`.
        """
        if global_batch_size % ranks:
            raise DataError(
                f"train.global_batch_size={global_batch_size} does not divide over {ranks} ranks; "
                f"the nearest that do: {_nearest(global_batch_size, ranks)}."
            )
        self.mixture, self.global_batch_size, self.skip_steps = mixture, global_batch_size, skip_steps
        self._rearrange = rearrange
        share = global_batch_size // ranks
        self._mine = slice(rank * share, (rank + 1) * share)
        self._steps_planned = max(1, _SAMPLES_PLANNED // global_batch_size)
        self._plan = (-1, np.empty((0, 2), np.int64))

    def samples(self, step: int) -> np.ndarray:
        """Return the global samples of a step, int64 [global_batch_size, 2]: (source, window)."""
        number, within = divmod(step - 1, self._steps_planned)
        planned, samples = self._plan
        if planned != number:
            count = self._steps_planned * self.global_batch_size
            samples = self.mixture.samples(number * count, count)
            samples.setflags(write=False)
            self._plan = (number, samples)
        return samples[within * self.global_batch_size :][: self.global_batch_size]

    def skips(self, step: int) -> bool:
        """Say whether a step is in `skip_steps`."""
        return any(step in steps for steps in self.skip_steps)

    def batch(self, step: int) -> Batch:
        """Return this rank's part of a step."""
        return self._batch(step, self.samples(step))

    def batches(self, first_step: int, last_step: int, ahead: int = 2) -> Iterator[Batch]:
        """Yield the batches of first_step..last_step, `ahead` of them read before they are asked for.

        An error while reading surfaces here; leaving the loop early ends the thread.
        """
        ready: queue.Queue[Batch | Exception | None] = queue.Queue(maxsize=max(1, ahead))
        stop = threading.Event()
        thread = threading.Thread(
            target=self._read_ahead, args=(first_step, last_step, ahead, ready, stop), name="loader", daemon=True
        )
        thread.start()
        try:
            while (item := ready.get()) is not None:
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            stop.set()
            thread.join()

    def _batch(self, step: int, samples: np.ndarray) -> Batch:
        targets = 0 if self.skips(step) else self.mixture.num_targets(samples)
        tokens = self.mixture.read(samples[self._mine] if targets else samples[:0])
        if self._rearrange is not None:
            first = (step - 1) * self.global_batch_size + self._mine.start
            self._rearrange(tokens, np.arange(first, first + len(tokens)))
        return Batch(step, tokens, targets, samples_digest(samples))

    def _read_ahead(
        self, first: int, last: int, ahead: int, ready: "queue.Queue[Batch | Exception | None]", stop: threading.Event
    ) -> None:
        """Body of the background thread: plan `ahead` steps further than it reads, so that the disk works meanwhile."""
        try:
            plans: dict[int, np.ndarray] = {}
            for step in range(first, last + 1):
                for coming in range(step, min(step + ahead, last) + 1):
                    if coming not in plans:
                        plans[coming] = self.samples(coming)
                        if not self.skips(coming):
                            self.mixture.will_need(plans[coming][self._mine])
                _put(ready, self._batch(step, plans.pop(step)), stop)
                if stop.is_set():
                    return
            _put(ready, None, stop)
        except Exception as error:  # handed to the consumer, who raises it
            _put(ready, error, stop)


def _put(ready: "queue.Queue[Batch | Exception | None]", item: Batch | Exception | None, stop: threading.Event) -> None:
    """Put, but give up when the consumer has left."""
    while not stop.is_set():
        try:
            ready.put(item, timeout=0.05)
            return
        except queue.Full:
            continue


def _nearest(size: int, ranks: int) -> str:
    below = size // ranks * ranks
    return ", ".join(str(n) for n in (below, below + ranks) if n)
