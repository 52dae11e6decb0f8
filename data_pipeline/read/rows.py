"""Rows of Arrow's columns to documents."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from data_pipeline.read.document import Broken, Document
from data_pipeline.read.input import Input

UNREADABLE = (pa.ArrowException, ValueError, LookupError, OverflowError)
"""What Arrow raises for bytes that make no sense, besides an OSError without a number."""
_AT_ONCE = 1 << 24


def documents(file: Input, batch: pa.RecordBatch, position: int) -> Iterator[Document | Broken]:
    """Yield a document for each row of a batch; `position` is the number of the first."""
    fields = [name for name in (file.id_field, file.text_field) if name in batch.schema.names]
    columns = [_values(batch.column(batch.schema.names.index(name))) for name in fields]
    for number, row in enumerate(zip(*columns, strict=True), start=position):
        errors = [value for value in row if isinstance(value, Exception)]
        if errors:
            yield file.broken(number, 0, f"row {number}: {errors[0]}")
        else:
            yield file.document(dict(zip(fields, row, strict=True)), number)


def _values(column: pa.Array) -> Iterator[Any]:
    """The values of a column; for one that cannot be read, the error. Large ones are made one at a time."""
    try:
        if pa.types.is_dictionary(column.type):
            numbers = column.indices.unique()
            texts = column.dictionary.take(numbers)  # without copies of those that many rows have
            if texts.nbytes < _AT_ONCE:
                by_number = dict(zip(numbers.to_pylist(), texts.to_pylist(), strict=True))
                return map(by_number.__getitem__, column.indices.to_pylist())
        elif column.nbytes < _AT_ONCE:
            return iter(column.to_pylist())
    except UNREADABLE:
        pass
    return map(value_of, column)


def value_of(scalar: pa.Scalar) -> Any:
    """A value as Python has it; the error of one that cannot be read."""
    try:
        return scalar.as_py()
    except UNREADABLE as error:
        return error
