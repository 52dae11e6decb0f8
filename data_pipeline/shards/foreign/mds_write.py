"""Write MosaicML's MDS: one sample a document, its column `tokens` an array of ids."""

import hashlib
import json
import struct
from itertools import pairwise
from typing import Any

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.shards.foreign.target import Batch

_LONGEST = 2**32 - 1
"""Offsets are 32 bits."""
_WIDTHS = ((0, 8, "<B"), (1, 16, "<H"), (2, 32, "<I"))
"""How the length of an array is written: its number, its bits, its form."""


class MdsTarget:
    """Shards of MDS version 2."""

    def __init__(self, dtype: str) -> None:
        """Write ids of this type as they are."""
        self._shards: list[dict[str, Any]] = []
        self._about = {
            "column_encodings": [f"ndarray:{dtype}"],
            "column_names": ["tokens"],
            "column_sizes": [None],
            "compression": None,
            "format": "mds",
            "hashes": ["sha256"],
            "size_limit": None,
            "version": 2,
        }

    def encode(self, batch: Batch, number: int) -> tuple[str, list[bytes]]:
        """Return the name of a shard and its bytes, in pieces. DataError when it is too long."""
        samples = [_sample(batch.ids[start:end]) for start, end in pairwise([0, *batch.ends.tolist()])]
        about = json.dumps(self._about, sort_keys=True).encode()
        head = 4 + 4 * (len(samples) + 1) + len(about)
        offsets = head + np.cumsum([0, *map(len, samples)], dtype=np.int64)
        if offsets[-1] > _LONGEST:
            raise DataError(f"a document of {len(batch.ids):,} ids is too long for MDS, whose offsets are 32 bits.")
        pieces = [struct.pack("<I", len(samples)), offsets.astype("<u4").tobytes(), about, *samples]
        self._shards.append(self._entry(f"shard.{number:05d}.mds", pieces, len(samples)))
        return f"shard.{number:05d}.mds", pieces

    def index(self) -> dict[str, Any]:
        """Return what index.json says of the shards encoded so far."""
        return {"shards": self._shards, "version": 2}

    def _entry(self, name: str, pieces: list[bytes], samples: int) -> dict[str, Any]:
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        raw = {"basename": name, "bytes": sum(map(len, pieces)), "hashes": {"sha256": digest.hexdigest()}}
        return {**self._about, "raw_data": raw, "samples": samples, "zip_data": None}


def _sample(ids: np.ndarray) -> bytes:
    """The size of the column, one byte for one dimension and how its length is written, the length, the ids."""
    code, form = next((code, form) for code, bits, form in _WIDTHS if len(ids) < 1 << bits)
    column = bytes([1 << 2 | code]) + struct.pack(form, len(ids)) + ids.tobytes()
    return struct.pack("<I", len(column)) + column
