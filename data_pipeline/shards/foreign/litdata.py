"""litData: index.json, and chunks of items whose leaves are encoded one after another.

A chunk, little-endian: u32 items n, u32 offsets [n + 1] from the file's beginning, then the items: a u32 size for each
leaf and the leaves' bytes, or, for its TokensLoader, the ids alone. Newer versions keep rows of text in an Arrow file
at the end of the chunk, with empty items before it, and compress stretches of items. Pickled leaves are never read.
"""

import json
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_pipeline.errors import DataError
from data_pipeline.shards.foreign.litdata_arrow import arrow_values, has_rows
from data_pipeline.shards.foreign.litdata_frames import MAGIC, framed_items
from data_pipeline.shards.foreign.samples import (
    Decode,
    SampleFile,
    Value,
    check_offsets,
    choose,
    decoded,
    of_shape,
    raw_ids,
    refused,
    short,
    text,
)
from data_pipeline.shards.foreign.unpack import unpack_zstd, unpacked

_MOST = 2**33
"""Bytes of a chunk: its offsets are 32 bits, and rows may follow the items."""
_LARGEST_ITEM = 1 << 30
_LONGEST_INDEX = 1 << 30
_TORCH = {11: "u1", 12: "i1", 13: "<i2", 14: "<i2", 15: "<i4", 16: "<i4", 17: "<i8", 18: "<i8", 20: "<u2"}
_NUMPY = {0: "i1", 1: "<i2", 2: "<i4", 3: "<i8", 4: "u1", 5: "<u2", 6: "<u4", 7: "<u8"}
"""Numbers of the integer types, as PyTorch's tensors and as NumPy's arrays are numbered."""


class _Loose(BaseModel):
    model_config = ConfigDict(frozen=True)


class _Chunk(_Loose):
    filename: str
    chunk_size: Annotated[int, Field(ge=0, le=2**32)]


class _Config(_Loose):
    compression: str | None = None
    compression_level: str | None = None
    data_format: list[str]
    data_spec: str | None = None
    encryption: Any = None
    item_loader: str = "PyTreeLoader"


class _Index(_Loose):
    chunks: list[_Chunk]
    config: _Config


def open_litdata(index: Path, column: str | None = None, dtype: str | None = None) -> list[SampleFile]:
    """Read an index.json; items are read when they are asked for. DataError when it is no litData of ids or text."""
    found = _read_index(index)
    if found.config.encryption:
        raise DataError(f"{index} is encrypted; write it again without.")
    names = _leaf_names(found.config, index)
    name = choose(dict(zip(names, found.config.data_format, strict=True)), column, index)
    place = names.index(name)
    decode = _decoder(name, found.config.data_format[place], dtype, index)
    reader = _Reader(found.config, place, name, decode)
    return [_sample_file(index, chunk, reader) for chunk in found.chunks]


def _sample_file(index: Path, chunk: _Chunk, reader: "_Reader") -> SampleFile:
    parts = PurePosixPath(chunk.filename)
    if parts.is_absolute() or ".." in parts.parts or "\0" in chunk.filename:
        raise DataError(f"{index} names a file outside its folder: {short(chunk.filename)!r}.")
    path = index.parent / parts
    size = path.stat().st_size if path.exists() else 0
    return SampleFile(path, size, lambda: reader.values(path, chunk.chunk_size))


class _Reader:
    """Reads one leaf of the items of a chunk."""

    def __init__(self, config: _Config, place: int, name: str, decode: Decode) -> None:
        self._place, self._name, self._decode = place, name, decode
        self._bare = config.item_loader == "TokensLoader"
        self._num_leaves = len(config.data_format)
        self._items_compressed = config.compression_level == "sample"
        whole = config.compression is not None and config.compression_level in (None, "", "chunk")
        self._compression = config.compression if whole else None

    def values(self, path: Path, count: int) -> Iterator[Value]:
        """Decode the leaf of each of the `count` items. DataError when the file is damaged."""
        compression = self._compression if ".zstd" in path.suffixes else None
        view = unpacked(path, compression, _MOST)
        if bytes(view[: len(MAGIC)]) == MAGIC:
            items = framed_items(view, path, count)
        elif has_rows(view):
            yield from arrow_values(view, path, self._name, count, self._decode)
            return
        else:
            items = self._items(view, path, count)
        for number, item in enumerate(items):
            yield decoded(self._decode, self._leaf(item, path, number), path, number)

    def _items(self, view: memoryview, path: Path, count: int) -> Iterator[memoryview]:
        table = 4 * (count + 2)
        if len(view) < table or struct.unpack_from("<I", view)[0] != count:
            raise DataError(f"{path} does not hold the {count:,} items that index.json speaks of.")
        offsets = check_offsets(np.frombuffer(view, "<u4", count + 1, 4), table, len(view), path)
        for start, end in pairwise(offsets):
            yield _uncompressed(view[start:end], path) if self._items_compressed else view[start:end]

    def _leaf(self, item: memoryview, path: Path, number: int) -> memoryview:
        if self._bare:
            return item
        head = 4 * self._num_leaves
        sizes = struct.unpack_from(f"<{self._num_leaves}I", item) if head <= len(item) else ()
        start = head + sum(sizes[: self._place])
        if not sizes or start + sizes[self._place] > len(item):
            raise DataError(f"{path}: item {number} is cut short.")
        return item[start : start + sizes[self._place]]


def _uncompressed(item: memoryview, path: Path) -> memoryview:
    try:
        return memoryview(unpack_zstd(item, _LARGEST_ITEM))
    except ValueError as error:
        raise DataError(f"{path}: an item cannot be unpacked ({error}).") from error


def _read_index(path: Path) -> _Index:
    try:
        with path.open("rb") as file:
            return _Index.model_validate_json(file.read(_LONGEST_INDEX))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"{path} is not an index of litData, or damaged: {where}: {first['msg']}.") from error


def _leaf_names(config: _Config, index: Path) -> list[str]:
    """Name the leaves of an item: the keys of a flat mapping, else their numbers; an item that is one leaf: tokens."""
    count = len(config.data_format)
    names = [str(number) for number in range(count)]
    try:
        spec = json.loads(config.data_spec or "null")
        node = spec[1] if isinstance(spec, list) else {}
        keys = json.loads(node["context"]) if node.get("type") == "builtins.dict" else None
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise DataError(f"{index}: data_spec is damaged ({error}).") from error
    if keys is None:
        return ["tokens"] if count == 1 else names
    flat = isinstance(keys, list) and len(keys) == count == len(set(map(str, keys)))
    return [str(key) for key in keys] if flat else names


def _decoder(name: str, encoding: str, dtype: str | None, index: Path) -> Decode:
    kind, _, number = encoding.partition(":")
    types = {"no_header_tensor": _TORCH, "no_header_numpy": _NUMPY}.get(kind, {})
    items = {str(known): name for known, name in types.items()}
    if number in items:
        item = np.dtype(items[number])
        return lambda data: np.frombuffer(data, item)
    if kind == "tensor":
        return lambda data: _shaped(data, ">", _TORCH)
    if kind == "numpy":
        return lambda data: _shaped(data, "<", _NUMPY)
    if kind == "bytes":
        return raw_ids(dtype, name, index)
    if kind == "str":
        return text
    if kind == "json":
        return _no_rows
    raise refused(name, encoding, index)


def _no_rows(data: memoryview) -> Value:
    """Nested values are read from the rows at the end of a chunk; what else there is has no description."""
    raise ValueError("nested values without the rows that newer versions of litData write")


def _shaped(data: memoryview, order: str, types: dict[int, str]) -> Value:
    """Decode an array with its type, its dimensions and their lengths, u32 each, before it."""
    number, dimensions = struct.unpack_from(f"{order}II", data) if len(data) >= 8 else (-1, 0)
    if 8 + 4 * dimensions > len(data):
        raise ValueError("its shape is cut short")
    start = 8 + 4 * dimensions
    return of_shape(
        np.frombuffer(data[start:], types[number]), list(struct.unpack_from(f"{order}{dimensions}I", data, 8))
    )
