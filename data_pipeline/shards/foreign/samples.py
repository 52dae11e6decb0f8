"""What MDS and litData have in common: files of samples with named columns, of which one holds ids or text."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError

Value = np.ndarray | str
"""The ids of a sample, 1-d of any integer type, or its text."""
Decode = Callable[[memoryview], Value]
"""The bytes of a column to its value; ValueError when they are not one."""
_USUAL = ("tokens", "input_ids", "text")
"""Columns taken without being named, the first that is there."""


@dataclass(frozen=True)
class SampleFile:
    """One file of samples."""

    path: Path
    size: int
    """Bytes on the disk, for progress."""
    values: Callable[[], Iterator[Value]]
    """Read the chosen column of every sample, in order. DataError when the file is damaged."""


def choose(columns: dict[str, str], wanted: str | None, index: Path) -> str:
    """Return the column to read, of names and their encodings. DataError when it is not clear or not there."""
    known = ", ".join(f"{short(name)} ({short(kind)})" for name, kind in list(columns.items())[:20]) or "none"
    if wanted is not None:
        if wanted not in columns:
            raise DataError(f"{index} has no column {wanted!r}; there are: {known}.")
        return wanted
    if len(columns) == 1:
        return next(iter(columns))
    for name in _USUAL:
        if name in columns:
            return name
    raise DataError(f"{index} has several columns: {known}; say with --column which one holds the ids or the text.")


def raw_ids(dtype: str | None, column: str, index: Path) -> Decode:
    """Decode bytes that are ids and nothing more. DataError when nobody said of which type."""
    if dtype is None:
        raise DataError(
            f"the column {short(column)!r} of {index} holds bare bytes, and nothing says of which type the ids in them "
            "are: give --dtype (older MDS of llm-foundry: int64)."
        )
    item = np.dtype(dtype).newbyteorder("<")
    return lambda data: np.frombuffer(data, item)


def of_shape(values: np.ndarray, shape: list[int]) -> np.ndarray:
    """The values, if they are as many as the shape before them says; else ValueError."""
    if math.prod(shape) != len(values):
        raise ValueError(f"its shape is {shape[:4]}, it has {len(values)} values")
    return values


def short(name: str) -> str:
    """A name from a file, for a message."""
    return name if len(name) <= 60 else name[:60] + "..."


def text(data: memoryview) -> str:
    """Decode UTF-8."""
    return bytes(data).decode()


def refused(column: str, encoding: str, index: Path) -> DataError:
    """What to say of a column that is not read."""
    column, encoding = short(column), short(encoding)
    if encoding.split(":")[0] in ("pkl", "pickle"):
        return DataError(
            f"the column {column!r} of {index} holds pickles, which can run any program when they are read: they are "
            "not read here. Write it again as ids or text."
        )
    return DataError(f"the column {column!r} of {index} is encoded as {encoding!r}: neither ids nor text.")


def check_offsets(offsets: np.ndarray, least: int, most: int, path: Path) -> list[int]:
    """Return the offsets of samples as a list. DataError when they do not rise from `least` to `most` at most."""
    rising = len(offsets) and offsets[0] >= least and offsets[-1] <= most and bool((offsets[1:] >= offsets[:-1]).all())
    if not rising:
        raise DataError(f"{path} is damaged: the offsets of its samples do not rise inside its {most:,} bytes.")
    found: list[int] = offsets.tolist()
    return found


def decoded(decode: Decode, data: memoryview, path: Path, number: int) -> Value:
    """Decode one value. DataError names the sample whose bytes are not one."""
    try:
        value = decode(data)
    except (ValueError, IndexError, KeyError, OverflowError, RecursionError) as error:
        raise DataError(f"{path}: sample {number} is damaged ({error}).") from error
    if isinstance(value, np.ndarray) and value.dtype.kind not in "iu":
        raise DataError(f"{path}: sample {number} holds {value.dtype}; ids are integers.")
    return value if isinstance(value, str) else value.reshape(-1)
