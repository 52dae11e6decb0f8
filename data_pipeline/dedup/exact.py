"""Exact duplicates: documents whose normalised text is the same."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.dedup.normalise import normalised


def exact_keys(texts: Sequence[str]) -> np.ndarray:
    """Return uint64 [n, 2]: 128 bits of BLAKE2b of each text, composed (NFC), case folded, whitespace as single spaces."""
    digests = b"".join(_digest(text) for text in texts)
    return np.frombuffer(digests, "<u8").astype(np.uint64).reshape(-1, 2)


def find_exact(runs: Sequence[Path], part: int, parts: int, memory: int, out: Path) -> int:
    """Write the numbers of documents to drop as exact duplicates (.npy, uint64, sorted) to `out`; return how many.

    `runs` are the folders of `write_runs`, one a task; looks only at keys of range `part` of `parts`.
    """
    raise NotImplementedError


def _digest(text: str) -> bytes:
    form = " ".join(normalised(text).split())
    return hashlib.blake2b(form.encode("utf-8", "surrogatepass"), digest_size=16).digest()
