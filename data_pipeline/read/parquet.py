"""Parquet: one row is one document, read a batch of rows at a time."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.read.document import Broken, Document, Place, identity_of, no_field
from data_pipeline.read.input import Damaged, Input, is_damage
from data_pipeline.read.rows import UNREADABLE, documents, value_of

SUFFIXES = (".parquet",)

_MOST_ROWS = 1024
_MOST_BYTES = 1 << 27
_BUFFER = 1 << 20


def read(file: Input, start: Place, end: int | None) -> Iterator[Document | Broken]:
    """Yield the rows from number `start.position` on. Only the columns with the text and the id are read."""
    position = start.position
    try:
        with file.seekable() as raw, _table(raw) as table:
            names = table.schema_arrow.names
            if file.text_field not in names:
                yield file.broken(0, 0, no_field(file.text_field, names))
                return
            for batch, first in _batches(file, raw, table, position):
                for item in documents(file, batch.slice(max(0, position - first)), max(first, position)):
                    yield item
                    position = item.position + 1
    except (Damaged, OSError, *UNREADABLE) as error:
        if not is_damage(error):
            raise
        yield file.broken(position, 0, f"not a readable parquet file ({error}); fetch it again")


def identities(file: Input, places: Sequence[Place]) -> Iterator[tuple[int, str]]:
    """Yield (position, identity) of the rows at the places, in ascending order; reads ids, of their row groups only."""
    with file.seekable() as raw, _table(raw) as table:
        groups = _rows_of_groups(table)
        ends = list(accumulate(groups))
        inside = [place.position for place in places if place.position < sum(groups)]
        for group, positions in groupby(inside, key=lambda position: bisect_right(ends, position)):
            ids = None
            if file.id_field in table.schema_arrow.names:
                ids = table.read_row_group(group, columns=[file.id_field]).column(file.id_field)
            for position in positions:
                id_ = value_of(ids[position - ends[group] + groups[group]]) if ids is not None else None
                if not isinstance(id_, Exception):
                    yield position, identity_of(id_, file.name, position)


def _table(raw: Any) -> pq.ParquetFile:
    return pq.ParquetFile(raw, buffer_size=_BUFFER, pre_buffer=False, page_checksum_verification=True)


def _rows_of_groups(table: pq.ParquetFile) -> list[int]:
    rows = [table.metadata.row_group(number).num_rows for number in range(table.num_row_groups)]
    if min(rows, default=0) < 0:
        raise ValueError(f"a row group of {min(rows)} rows")
    return rows


def _batches(file: Input, raw: Any, table: pq.ParquetFile, start: int) -> Iterator[tuple[pa.RecordBatch, int]]:
    """Yield (batch, number of its first row) from the one with row `start` on. Batches begin anew in each row group,
    so that what is readable before a damaged place does not depend on `start`."""
    columns = [name for name in (file.text_field, file.id_field) if name in table.schema_arrow.names]
    groups, first = _rows_of_groups(table), 0
    size = 0 if file.compression else raw.seek(0, 2)
    for group, rows in enumerate(groups):
        if first + rows > start:
            count = _rows_at_once(table.metadata.row_group(group))
            here = first
            for batch in table.iter_batches(count, row_groups=[group], columns=columns):
                if here + batch.num_rows > start:
                    yield batch, here
                here += batch.num_rows
        first += rows
        file.advance(size * rows // max(1, sum(groups)))
    if first != table.metadata.num_rows:
        raise ValueError(f"{table.metadata.num_rows} rows in all, {first} in its row groups")


def _rows_at_once(group: Any) -> int:
    """How many rows of a row group to read without holding much more than _MOST_BYTES.

    Any of them may be as large as the whole group is said to be: one large text may stand in a million rows, in a few
    bytes. Read as a dictionary it would be there once, but Arrow keeps all texts of a group in that, and gives all of
    them with each batch: memory as large as the group, and quadratic time. (Of a column's own metadata nothing is
    asked: on damaged ones Arrow aborts the process.)
    """
    return max(1, min(_MOST_ROWS, _MOST_BYTES // max(1, group.total_byte_size)))
