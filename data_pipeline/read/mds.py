"""Shards of MosaicML's MDS whose columns hold text: one sample is one document. Nothing is unpickled.

A shard, little-endian: u32 samples n, u32 offsets [n + 1] from the file's beginning, the columns as JSON, then the
samples: a u32 size for each column of no fixed size, and the columns' bytes.
"""

import json
import struct
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np

from data_pipeline.read.document import Broken, Document, Place, no_field
from data_pipeline.read.input import BLOCK, LIMIT, Damaged, Input, is_damage

SUFFIXES = (".mds",)
_DECODERS: dict[str, Callable[[bytes], Any]] = {
    "str": lambda data: data.decode(),
    "int": lambda data: int.from_bytes(data, "little", signed=True),
    "json": json.loads,
}
"""Encodings that can hold a text or an id."""
_UNREADABLE = (ValueError, LookupError, TypeError, RecursionError, struct.error)


def read(file: Input, start: Place, end: int | None) -> Iterator[Document | Broken]:
    """Yield the samples from number `start.position` on."""
    position = start.position
    try:
        with file.seekable() as raw:
            count, columns = _head(raw)
            if file.text_field not in columns:
                yield file.broken(0, 0, no_field(file.text_field, list(columns)))
                return
            for position, first, last in _places(raw, count, start.position):
                yield _sample(file, raw, columns, position, first, last)
    except (Damaged, OSError, *_UNREADABLE) as error:
        if not is_damage(error):
            raise
        yield file.broken(position, 0, f"not a readable MDS shard ({error}); fetch it again")


def _head(raw: BinaryIO) -> tuple[int, dict[str, tuple[str, int | None]]]:
    """The number of samples, and each column's encoding and size."""
    (count,) = struct.unpack("<I", raw.read(4))
    (first,) = struct.unpack("<I", raw.read(4))
    table = 4 * (count + 2)
    if not 0 <= first - table <= LIMIT:
        raise ValueError("the offsets of its samples do not fit")
    raw.seek(table)
    about = json.loads(raw.read(first - table))
    parts = (about["column_names"], about["column_encodings"], about["column_sizes"])
    if about.get("format") != "mds" or not all(type(part) is list and len(part) == len(parts[0]) for part in parts):
        raise ValueError("its columns are not described")
    return count, {str(name): (str(encoding), size) for name, encoding, size in zip(*parts, strict=True)}


def _places(raw: BinaryIO, count: int, position: int) -> Iterator[tuple[int, int, int]]:
    """Yield (number, first byte, byte after the last) of the samples from `position` on."""
    at_once = BLOCK // 4
    for first in range(position, count, at_once):
        raw.seek(4 + 4 * first)
        offsets = np.frombuffer(raw.read(4 * (min(at_once, count - first) + 1)), "<u4").tolist()
        if len(offsets) != min(at_once, count - first) + 1:
            raise ValueError("it was cut short")
        yield from zip(range(first, count), offsets, offsets[1:], strict=False)


def _sample(
    file: Input, raw: BinaryIO, columns: dict[str, tuple[str, int | None]], position: int, first: int, last: int
) -> Document | Broken:
    if not 0 <= last - first <= LIMIT:
        return file.broken(position, first, f"sample {position} has {last - first:,} bytes")
    raw.seek(first)
    data = raw.read(last - first)
    try:
        return file.document(_fields(data, columns, {file.text_field, file.id_field}), position, first, data)
    except _UNREADABLE as error:
        return file.broken(position, first, f"sample {position} is damaged ({error})", data)


def _fields(data: bytes, columns: dict[str, tuple[str, int | None]], wanted: set[str]) -> dict[str, Any]:
    """Decode the wanted columns of a sample. ValueError when it is cut short or a column is of another kind."""
    head = 4 * sum(1 for _, size in columns.values() if not size)
    written = iter(struct.unpack_from(f"<{head // 4}I", data))
    found, place = {}, head
    for name, (encoding, size) in columns.items():
        length = size or next(written)
        if not 0 <= length <= len(data) - place:
            raise ValueError("it is cut short")
        if name in wanted:
            if encoding not in _DECODERS:
                raise ValueError(f"the column {name!r} is encoded as {encoding[:60]!r}, which is not read here")
            found[name] = _DECODERS[encoding](data[place : place + length])
        place += length
    return found
