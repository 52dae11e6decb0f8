"""Megatron's index file (.idx), little-endian, as megatron-core, GPT-NeoX and NeMo read it.

magic `MMIDIDX\\0\\0`, u64 version 1, u8 dtype code, u64 sequences N, u64 document entries D = documents + 1,
i32 lengths [N], i64 byte offsets [N], i64 document index [D]. Here every document is one sequence.
"""

import mmap
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError

_HEADER = struct.Struct("<9sQBQQ")
_MAGIC = b"MMIDIDX\x00\x00"
_CODES = {"int32": 4, "uint16": 8}
_NAMES = {code: name for name, code in _CODES.items()}
LONGEST = 2**31 - 1
"""Tokens that one sequence can hold."""


@dataclass(frozen=True)
class Index:
    """The document boundaries of one shard, mapped from the file."""

    dtype: str
    lengths: np.ndarray
    """int32 [documents]: tokens."""
    offsets: np.ndarray
    """int64 [documents]: byte in the .bin where each starts."""
    document_index: np.ndarray
    """int64 [documents + 1]: the sequence with which each document starts."""


def encode_index(dtype: str, lengths: np.ndarray) -> bytes:
    """Make the whole .idx of a shard from its documents' lengths in tokens."""
    count = len(lengths)
    offsets = np.zeros(count, "<i8")
    np.cumsum(lengths[:-1], dtype=np.int64, out=offsets[1:])
    offsets *= np.dtype(dtype).itemsize
    header = _HEADER.pack(_MAGIC, 1, _CODES[dtype], count, count + 1)
    return b"".join(
        [header, lengths.astype("<i4").tobytes(), offsets.tobytes(), np.arange(count + 1, dtype="<i8").tobytes()]
    )


def map_index(path: Path) -> Index:
    """Map an .idx file. DataError when it is not one, or its size is not what its header promises."""
    try:
        with path.open("rb") as file:
            view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}; prepare the data again.") from error
    if len(view) < _HEADER.size:
        raise DataError(f"{path} is cut short at byte {len(view)}, inside its header; prepare the data again.")
    magic, version, code, sequences, entries = _HEADER.unpack_from(view)
    if magic != _MAGIC or version != 1 or code not in _NAMES:
        raise DataError(
            f"{path} is not a Megatron index of version 1 with 2- or 4-byte ids (bytes 0 to {_HEADER.size})."
        )
    expected = _HEADER.size + 12 * sequences + 8 * entries
    if len(view) != expected:
        raise DataError(f"{path} has {len(view)} bytes, its header promises {expected}; prepare the data again.")
    lengths = np.frombuffer(view, "<i4", sequences, _HEADER.size)
    offsets = np.frombuffer(view, "<i8", sequences, _HEADER.size + 4 * sequences)
    document_index = np.frombuffer(view, "<i8", entries, _HEADER.size + 12 * sequences)
    return Index(_NAMES[code], lengths, offsets, document_index)
