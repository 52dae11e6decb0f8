"""Parquet: one row is one document, read a batch of rows at a time."""

import contextlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import accumulate, groupby
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.read.document import Broken, Document, Place, identity_of, no_field
from data_pipeline.read.input import Input, is_damage

SUFFIXES = (".parquet",)
_ROWS = 1024


def read(file: Input, start: Place, end: int | None) -> Iterator[Document | Broken]:
    """Yield the rows from `start` on. Only the columns with the text and the id are read."""
    position = start.position
    try:
        with file.opened(counted=False) as raw, pq.ParquetFile(raw) as table:
            names = table.schema_arrow.names
            if file.source.text_field not in names:
                yield file.broken(0, 0, no_field(file.source.text_field, names))
                return
            columns = [name for name in {file.source.text_field, file.source.id_field} if name in names]
            first, size, rows = 0, raw.seek(0, 2), max(1, table.metadata.num_rows)
            for batch in table.iter_batches(_ROWS, columns=columns):
                file.advance(size * batch.num_rows // rows)
                skip, first = max(0, start.position - first), first + batch.num_rows
                batch = batch.slice(skip)
                for row in zip(*batch.columns, strict=True):
                    yield _document(file, dict(zip(batch.schema.names, row, strict=True)), position)
                    position += 1
    except (pa.ArrowException, OSError) as error:
        if not is_damage(error):
            raise
        yield file.broken(position, 0, f"not a readable parquet file ({error}); fetch it again")


def identities(file: Input, places: Sequence[Place]) -> Iterator[tuple[int, str]]:
    """Yield (position, identity) of the rows at the places, in ascending order; reads ids, of their row groups only."""
    id_field = file.source.id_field
    with file.opened() as raw, pq.ParquetFile(raw) as table:
        groups = [table.metadata.row_group(number).num_rows for number in range(table.num_row_groups)]
        ends = list(accumulate(groups))
        inside = [place.position for place in places if place.position < table.metadata.num_rows]
        for group, positions in groupby(inside, key=lambda position: bisect_right(ends, position)):
            ids = None
            if id_field in table.schema_arrow.names:
                ids = table.read_row_group(group, columns=[id_field]).column(id_field)
            for position in positions:
                with contextlib.suppress(ValueError, OverflowError):
                    id_ = ids[position - ends[group] + groups[group]].as_py() if ids is not None else None
                    yield position, identity_of(id_, file.name, position)


def _document(file: Input, row: dict[str, Any], position: int) -> Document | Broken:
    try:
        return file.document({name: value.as_py() for name, value in row.items()}, position)
    except (ValueError, OverflowError) as error:
        return file.broken(position, 0, f"row {position}: {error}")
