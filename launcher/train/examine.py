"""A checkpoint's bytes read by all ranks together: each its share, one verdict for all."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipeline.progress import progress
from launcher.cluster.ranks import Ranks
from megamodel.checkpoint.verify import Segment, contents, distinct, faulty, segment_fault, segments, share
from megamodel.errors import CheckpointUnreadable

_AT_ONCE = 16
"""Segments between two looks at the clock: a gigabyte."""

_Found = list[tuple[Segment, str]]


def shared_faults(checkpoint: Path, ranks: Ranks, seconds: float) -> list[str]:
    """One sentence for each fault of a checkpoint, the same on every rank; none when every byte is as it was written.

    The ranks meet every `seconds`, and when one has found a fault, so that none waits longer for a slow one.
    Raises UserError on every rank when one of them cannot tell whether the checkpoint is good.
    """
    files, faults = ranks.on_first(lambda: contents(checkpoint))
    if faults:
        return faults
    mine = share(segments(checkpoint, files), ranks.rank, ranks.world_size)
    with _progress(f"verifying {checkpoint.name}", mine, ranks) as on_read:
        found = _read_together(_Reader(mine, on_read), ranks, seconds)
    return ranks.on_first(lambda: _confirmed(found)) if any(found) else []


def _read_together(reader: "_Reader", ranks: Ranks, seconds: float) -> list[_Found]:
    """What each rank has found when the first has found something, or when all have read their shares."""
    while True:
        rounds = ranks.on_all(lambda: reader.read_on(seconds))
        found = [found for found, _ in rounds]
        if any(found) or not any(left for _, left in rounds):
            return found


@contextlib.contextmanager
def _progress(what: str, mine: list[Segment], ranks: Ranks) -> Iterator[Callable[[int], None]]:
    """Rank 0 shows how far its own share is; the others are about as far."""
    if not ranks.first:
        yield lambda _: None
        return
    with progress(what, sum(segment.length for segment in mine)) as on_read:
        yield on_read


class _Reader:
    """Reads this rank's share, some seconds at a time."""

    def __init__(self, mine: list[Segment], on_read: Callable[[int], None]) -> None:
        self.left, self.on_read = mine, on_read

    def read_on(self, seconds: float) -> tuple[_Found, int]:
        """Read until the time is over or a fault is found; what was found, and how many segments are left."""
        deadline = time.monotonic() + seconds
        while True:
            some, self.left = self.left[:_AT_ONCE], self.left[_AT_ONCE:]
            found = faulty(some, self.on_read)
            if found or not self.left or time.monotonic() > deadline:
                return found, len(self.left)


def _confirmed(all_found: list[_Found]) -> list[str]:
    """The faults that rank 0 sees too: what only another rank cannot see or read well is no fault of the checkpoint."""
    found = [(rank, segment, fault) for rank, each in enumerate(all_found) for segment, fault in each]
    confirmed = distinct(fault for _, segment, _ in found if (fault := segment_fault(segment)))
    if not confirmed:
        rank, _, fault = found[0]
        raise CheckpointUnreadable(
            f"rank {rank} finds, where rank 0 finds nothing wrong: {fault}. All ranks must see the same run_dir, on a "
            "file system that they share; if they do, suspect the memory or the network of that rank's machine"
        )
    return confirmed
