"""Exact duplicates: documents whose normalised text is the same."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipeline.dedup.normalise import normalised
from data_pipeline.dedup.rows import Rows, merge, write_sorted
from data_pipeline.dedup.runs import NUMBER, key_stretch


def exact_keys(texts: Sequence[str]) -> np.ndarray:
    """Return uint64 [n, 2]: 128 bits of BLAKE2b of each text, in NFC, case folded, with single spaces as whitespace."""
    digests = b"".join(_digest(text) for text in texts)
    return np.frombuffer(digests, "<u8").astype(np.uint64).reshape(-1, 2)


def find_exact(runs: Sequence[Path], part: int, parts: int, memory: int, out: Path) -> int:
    """Write the numbers of documents to drop as exact duplicates (.npy, uint64, sorted) to `out`; return how many.

    `runs` are the folders of `write_runs`, one a task; looks only at keys of range `part` of `parts`.
    """
    keys = merge((key_stretch(folder, part, parts) for folder in runs), memory)
    return write_sorted(_repeated(keys), NUMBER, out, memory)


def _digest(text: str, window: int = 2**20) -> bytes:
    """Hash the words of a text, with single spaces between: a window of it at a time, for splitting takes memory."""
    form = normalised(text)
    digest = hashlib.blake2b(digest_size=16)
    begun = apart = False
    for first in range(0, len(form), window):
        piece = form[first : first + window]
        words = " ".join(piece.split())
        if not words:
            apart = True
            continue
        if begun and (apart or piece[0].isspace()):
            digest.update(b" ")
        digest.update(words.encode("utf-8", "surrogatepass"))
        begun, apart = True, piece[-1].isspace()
    return digest.digest()


def _repeated(blocks: Iterable[Rows]) -> Iterator[np.ndarray]:
    """Yield the numbers of sorted rows whose key is that of the row before."""
    last = None
    for rows in blocks:
        same = np.zeros(len(rows), bool)
        same[1:] = (rows["high"][1:] == rows["high"][:-1]) & (rows["low"][1:] == rows["low"][:-1])
        same[0] = last is not None and last["high"] == rows["high"][0] and last["low"] == rows["low"][0]
        last = rows[-1]
        yield rows["number"][same]
