"""Write litData as its TokensLoader reads it: one item a document, the ids alone."""

from typing import Any

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.shards.foreign.target import Batch

_LONGEST = 2**32 - 1
"""Offsets are 32 bits."""
_TYPES = {"uint8": 11, "int8": 12, "int16": 14, "int32": 16, "int64": 18, "uint16": 20}
"""PyTorch's integer types as litData numbers them; ids of any other type are written as int64."""


class LitDataTarget:
    """Chunks of ids."""

    def __init__(self, dtype: str, identity: str) -> None:
        """Write ids of this type, or as int64 where PyTorch has no such type; `identity` is a digest of the data."""
        self._identity = identity
        self._dtype = dtype if dtype in _TYPES else "int64"
        self._chunks: list[dict[str, Any]] = []

    def encode(self, batch: Batch, number: int) -> tuple[str, list[bytes]]:
        """Return the name of a chunk and its bytes, in pieces. DataError when it is too long."""
        item = np.dtype(self._dtype).newbyteorder("<")
        count = len(batch.ends)
        offsets = 4 * (count + 2) + item.itemsize * np.concatenate([[0], batch.ends])
        if offsets[-1] > _LONGEST:
            raise DataError(f"a document of {len(batch.ids):,} ids is too long for litData, whose offsets are 32 bits.")
        pieces = [np.array([count], "<u4").tobytes(), offsets.astype("<u4").tobytes(), batch.ids.astype(item).tobytes()]
        name = f"chunk-0-{number}.bin"
        sizes = {"chunk_bytes": int(offsets[-1]), "chunk_size": count, "dim": len(batch.ids)}
        self._chunks.append({**sizes, "filename": name})
        return name, pieces

    def index(self) -> dict[str, Any]:
        """Return what index.json says of the chunks encoded so far."""
        config = {
            "chunk_bytes": None,
            "chunk_size": None,
            "compression": None,
            "data_format": [f"no_header_tensor:{_TYPES[self._dtype]}"],
            "data_spec": '[1, {"type": null, "context": null, "children_spec": []}]',
            "encryption": None,
            "item_loader": "TokensLoader",
        }
        # A time to litData, which it only compares: other data must have another one.
        updated_at = f"{int(self._identity[:12], 16) / 1e6:.6f}"
        return {"chunks": self._chunks, "config": config, "updated_at": updated_at}
