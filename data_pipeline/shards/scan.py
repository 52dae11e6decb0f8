"""One pass over a token file: its digest, ids that no tokenizer has, and how its documents end."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.shards.boundaries import Boundaries

_CHUNK = 1 << 24
"""Bytes read at once."""


@dataclass(frozen=True)
class Outside:
    """An id that is not in the vocabulary."""

    id: int
    byte: int
    """Where it is in the file."""


@dataclass
class Scan:
    """What a pass over a token file found."""

    sha256: str = ""
    outside: Outside | None = None
    """The first id outside the vocabulary."""
    num_ended: int = 0
    """Documents with tokens that end in the end-of-document token."""
    unended_byte: int | None = None
    """Where the first other document ends."""
    widest_second: int = 0
    """Largest of every second item, as unsigned: small when the ids are really twice as wide."""


def scan(
    path: Path,
    dtype: str,
    vocab_size: int,
    eos_id: int,
    boundaries: Boundaries | None,
    advance: Callable[[int], object] = lambda size: None,
) -> Scan:
    """Read a token file once, in pieces. `boundaries`, when given, must be known to be sound.

    `advance` is told the bytes done since its last call. DataError when the file cannot be read.
    """
    found, digest = Scan(), hashlib.sha256()
    item = np.dtype(dtype).newbyteorder("<")
    start = 0
    try:
        with path.open("rb", buffering=0) as file:
            while data := file.read(_CHUNK):
                digest.update(data)
                ids = np.frombuffer(data[: len(data) // item.itemsize * item.itemsize], item)
                _look_at_ids(found, ids, start, vocab_size)
                if boundaries is not None:
                    _look_at_ends(found, ids, start, eos_id, boundaries)
                start += len(ids)
                advance(len(data))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from error
    found.sha256 = digest.hexdigest()
    return found


def _look_at_ids(found: Scan, ids: np.ndarray, start: int, vocab_size: int) -> None:
    if not len(ids):
        return
    if found.outside is None and (ids.max() >= vocab_size or ids.min() < 0):
        place = int(np.flatnonzero((ids >= vocab_size) | (ids < 0))[0])
        found.outside = Outside(int(ids[place]), (start + place) * ids.itemsize)
    seconds = ids.view(f"<u{ids.itemsize}")[1::2]
    if len(seconds):
        found.widest_second = max(found.widest_second, int(seconds.max()))


def _look_at_ends(found: Scan, ids: np.ndarray, start: int, eos_id: int, boundaries: Boundaries) -> None:
    """Look at the last token of each document that ends in here; empty documents have none."""
    first, last = boundaries.num_ended(start), boundaries.num_ended(start + len(ids))
    ends = np.unique(boundaries.ends(first, last))
    ended = ids[ends - 1 - start] == eos_id
    found.num_ended += int(ended.sum())
    if found.unended_byte is None and not ended.all():
        found.unended_byte = int(ends[~ended][0] - 1) * ids.itemsize
