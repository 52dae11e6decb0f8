"""MosaicML's MDS: index.json, and shards of samples whose columns are encoded one after another.

A shard, little-endian: u32 samples n, u32 offsets [n + 1] from the file's beginning, the columns as JSON, then the
samples: a u32 size for each column of no fixed size, and the columns' bytes. Pickled columns are never read.
"""

import json
import struct
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_pipeline.errors import DataError
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
from data_pipeline.shards.foreign.unpack import check_hashes, unpacked

_MOST = 2**32
"""Bytes of a shard: its offsets are 32 bits."""
_LONGEST_INDEX = 1 << 30
_VALUES = {
    8: "u1", 9: "i1", 16: "<u2", 17: "<i2", 18: "<f2", 32: "<u4", 33: "<i4", 34: "<f4", 64: "<u8", 65: "<i8", 66: "<f8",
}  # fmt: skip
"""The types of an array whose type is written with it."""
_NAMES = {
    "uint8": "u1", "int8": "i1", "uint16": "<u2", "int16": "<i2", "uint32": "<u4", "int32": "<i4", "uint64": "<u8",
    "int64": "<i8",
}  # fmt: skip


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True)


class _File(_Strict):
    basename: str
    bytes: Annotated[int, Field(ge=0, le=_MOST)]
    hashes: dict[str, str] = {}


class _Shard(_Strict):
    format: Literal["mds"]
    version: Literal[2]
    column_encodings: list[str]
    column_names: list[str]
    column_sizes: list[Annotated[int, Field(ge=0, le=_MOST)] | None]
    compression: str | None = None
    raw_data: _File
    zip_data: _File | None = None
    samples: Annotated[int, Field(ge=0, le=_MOST)]

    @property
    def columns(self) -> dict[str, str]:
        return dict(zip(self.column_names, self.column_encodings, strict=False))


class _Index(_Strict):
    version: Literal[2]
    shards: list[_Shard]


def open_mds(index: Path, column: str | None = None, dtype: str | None = None) -> list[SampleFile]:
    """Read an index.json; the files' samples are read when they are asked for. DataError when it is no MDS."""
    return [_sample_file(index, shard, column, dtype) for shard in _read_index(index).shards]


def _read_index(path: Path) -> _Index:
    try:
        with path.open("rb") as file:
            return _Index.model_validate_json(file.read(_LONGEST_INDEX))
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"{path} is not an index of MDS version 2, or damaged: {where}: {first['msg']}.") from error


def _sample_file(index: Path, shard: _Shard, column: str | None, dtype: str | None) -> SampleFile:
    number = len(shard.column_names)
    if len(shard.column_encodings) != number or len(shard.column_sizes) != number:
        raise DataError(f"{index}: a shard names {number} columns, but not as many encodings and sizes.")
    name = choose(shard.columns, column, index)
    decode = _decoder(name, shard.columns[name], dtype, index)
    place = shard.column_names.index(name)
    path = _inside(index, shard.raw_data)
    if shard.zip_data and not path.exists():
        path = _inside(index, shard.zip_data)
    size = path.stat().st_size if path.exists() else 0
    return SampleFile(path, size, lambda: _values(path, shard, place, decode))


def _inside(index: Path, file: _File) -> Path:
    parts = PurePosixPath(file.basename)
    if parts.is_absolute() or ".." in parts.parts or "\0" in file.basename:
        raise DataError(f"{index} names a file outside its folder: {short(file.basename)!r}.")
    return index.parent / parts


def _values(path: Path, shard: _Shard, place: int, decode: Decode) -> Iterator[Value]:
    """Decode one column of a shard's samples."""
    packed = shard.zip_data if shard.zip_data and path.name == PurePosixPath(shard.zip_data.basename).name else None
    view = unpacked(path, shard.compression if packed else None, shard.raw_data.bytes)
    if len(view) != shard.raw_data.bytes:
        raise DataError(f"{path} has {len(view):,} bytes, index.json says {shard.raw_data.bytes:,}: it was cut short.")
    check_hashes(view, shard.raw_data.hashes, path)
    table = 4 * (shard.samples + 2)
    if len(view) < table or struct.unpack_from("<I", view)[0] != shard.samples:
        raise DataError(f"{path} does not hold the {shard.samples:,} samples that index.json speaks of.")
    offsets = check_offsets(np.frombuffer(view, "<u4", shard.samples + 1, 4), table, len(view), path)
    for number, (start, end) in enumerate(pairwise(offsets)):
        yield decoded(decode, _column(view[start:end], shard.column_sizes, place, path, number), path, number)


def _column(sample: memoryview, fixed: list[int | None], place: int, path: Path, number: int) -> memoryview:
    """Cut one column out of a sample."""
    head = 4 * sum(1 for size in fixed if not size)
    if head > len(sample):
        raise DataError(f"{path}: sample {number} is cut short.")
    written = iter(struct.unpack_from(f"<{head // 4}I", sample))
    sizes = [size or next(written) for size in fixed]
    start = head + sum(sizes[:place])
    if start + sizes[place] > len(sample):
        raise DataError(f"{path}: sample {number} is cut short.")
    return sample[start : start + sizes[place]]


def _decoder(name: str, encoding: str, dtype: str | None, index: Path) -> Decode:
    kind, _, rest = encoding.partition(":")
    if kind == "ndarray":
        return _array_decoder(rest, name, encoding, index)
    if kind == "bytes":
        return raw_ids(dtype, name, index)
    if kind == "str":
        return text
    if kind == "json":
        return _json_ids
    raise refused(name, encoding, index)


def _json_ids(data: memoryview) -> Value:
    value: Any = json.loads(bytes(data))
    if isinstance(value, str):
        return value
    return np.array(value) if value != [] else np.empty(0, np.int64)  # a type given here would round 1.5 in silence


def _array_decoder(arguments: str, name: str, encoding: str, index: Path) -> Decode:
    """Decode `ndarray[:TYPE[:SHAPE]]`: what the encoding does not fix is written before the values."""
    dtype, _, shape = arguments.partition(":")
    if dtype and dtype not in _NAMES:
        raise refused(name, encoding, index)

    def decode(data: memoryview) -> Value:
        item = np.dtype(_NAMES[dtype] if dtype else _VALUES[data[0]])
        start = 0 if dtype else 1
        if shape:
            return np.frombuffer(data[start:], item)
        dimensions, width = data[start] >> 2, 1 << (data[start] & 3)
        values = start + 1 + dimensions * width
        return of_shape(
            np.frombuffer(data[values:], item), np.frombuffer(data[start + 1 : values], f"<u{width}").tolist()
        )

    return decode
