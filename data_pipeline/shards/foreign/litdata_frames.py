"""litData's compressed stretches of items (compression_level "batch").

Little-endian: 8 bytes `LDFZ01\\0\\0`, u16 version 1, u16 flags, u32 items n, u32 items in a frame, u32 frames, u32
offsets [n + 1] in the uncompressed items, then for each frame u32 first item, u32 items, u64 place in the file, u32
compressed and u32 uncompressed bytes.
"""

import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.shards.foreign.samples import check_offsets
from data_pipeline.shards.foreign.unpack import unpack_zstd

MAGIC = b"LDFZ01\0\0"
_HEAD = struct.Struct("<8sHHIII")
_FRAME = np.dtype([("first", "<u4"), ("items", "<u4"), ("place", "<u8"), ("packed", "<u4"), ("size", "<u4")])


def framed_items(view: memoryview, path: Path, count: int) -> Iterator[memoryview]:
    """Yield the items of a chunk, one frame in memory at a time. DataError when it is damaged."""
    if len(view) < _HEAD.size:
        raise DataError(f"{path} is cut short at byte {len(view)}, inside its header.")
    _, version, _, items, _, num_frames = _HEAD.unpack_from(view)
    head = _HEAD.size + 4 * (items + 1) + _FRAME.itemsize * num_frames
    if version != 1 or items != count or head > len(view):
        raise DataError(f"{path} does not hold the {count:,} items that index.json speaks of, or is cut short.")
    offsets = check_offsets(np.frombuffer(view, "<u4", items + 1, _HEAD.size), 0, 2**32, path)
    frames = np.frombuffer(view, _FRAME, num_frames, _HEAD.size + 4 * (items + 1)).tolist()
    done = 0
    for first, number, place, packed, size in frames:
        whole = first == done and first + number <= items and place + packed <= len(view)
        if not whole or offsets[first + number] - offsets[first] != size:
            raise DataError(f"{path} is damaged: its frame from item {first} on does not fit.")
        data = _unpack(view[place : place + packed], size, path)
        start = offsets[first]
        yield from (data[a - start : b - start] for a, b in pairwise(offsets[first : first + number + 1]))
        done = first + number
    if done != items:
        raise DataError(f"{path} is damaged: its frames end at item {done} of {items}.")


def _unpack(data: memoryview, size: int, path: Path) -> memoryview:
    try:
        raw = unpack_zstd(data, size) if size else b""
    except ValueError as error:
        raise DataError(f"{path}: items cannot be unpacked ({error}).") from error
    if len(raw) != size:
        raise DataError(f"{path}: items unpack to {len(raw):,} bytes, not to {size:,}.")
    return memoryview(raw)
