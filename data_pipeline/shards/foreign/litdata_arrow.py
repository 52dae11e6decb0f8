"""The rows that newer versions of litData keep at the end of a chunk: an Arrow file, u32 its bytes, 8 bytes of mark."""

import struct
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from data_pipeline.errors import DataError
from data_pipeline.shards.foreign.samples import Decode, Value

_MARK = b"LDARW01\0"


def has_rows(view: memoryview) -> bool:
    """Does the chunk end in rows?"""
    return len(view) > 12 and bytes(view[-8:]) == _MARK


def arrow_values(view: memoryview, path: Path, column: str, count: int, decode: Decode) -> Iterator[Value]:
    """Yield one column of the rows: texts, lists of ids, or bytes for `decode`. DataError when they are damaged or of
    another number."""
    (size,) = struct.unpack_from("<I", view, len(view) - 12)
    start = len(view) - 12 - size
    if start < 0:
        raise DataError(f"{path} is damaged: its rows are longer than the file.")
    done = 0
    try:
        with pa.ipc.open_file(pa.py_buffer(view[start : start + size])) as reader:
            for number in range(reader.num_record_batches):
                batch = reader.get_batch(number)
                batch.validate(full=True)
                if column not in batch.schema.names:
                    raise DataError(f"{path} has no column {column!r}; there are: {', '.join(batch.schema.names)}.")
                done += batch.num_rows
                yield from _values(batch.column(column), path, decode)
    except (pa.ArrowException, OSError, MemoryError, OverflowError, ValueError) as error:
        raise DataError(f"{path}: its rows are damaged ({error}).") from error
    if done != count:
        raise DataError(f"{path} holds {done:,} rows, index.json speaks of {count:,}.")


def _values(array: pa.Array, path: Path, decode: Decode) -> Iterator[Value]:
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        yield from (value.as_py() or "" for value in array)
        return
    if pa.types.is_binary(array.type) or pa.types.is_large_binary(array.type):
        yield from (decode(memoryview(value.as_py() or b"")) for value in array)
        return
    is_list = pa.types.is_list(array.type) or pa.types.is_large_list(array.type)
    if not is_list or not pa.types.is_integer(array.type.value_type):
        raise DataError(f"{path}: the column holds {array.type}, neither text nor lists of ids.")
    for row in array:
        yield row.values.to_numpy(zero_copy_only=False) if row.is_valid else pa.array([], pa.int64()).to_numpy()
