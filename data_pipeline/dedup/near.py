"""Candidates for near duplicates: documents that share a bucket of a band."""

from collections.abc import Sequence
from pathlib import Path


def find_candidates(
    runs: Sequence[Path], band: int, part: int, parts: int, dropped: Path | None, memory: int, out: Path
) -> int:
    """Write the pairs of one band and range of hashes (.npy of EDGE, sorted by later, unique) to `out`; return how many.

    `runs` are the folders of `write_runs`, one a task. Each document of a bucket is paired with the bucket's first and
    with the one just before it. `dropped` is the file of `unite`: its documents take no part.
    """
    raise NotImplementedError
