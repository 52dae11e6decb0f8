"""Parquet: one row is one document, read a batch of rows at a time."""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, groupby
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.errors import DataError
from data_pipeline.read.document import Document, identity_of, no_field, to_document

SUFFIXES = (".parquet",)
_ROWS = 1024


def read(path: Path, text_field: str, id_field: str, advance: Callable[[int], object]) -> Iterator[Document]:
    """Yield the rows of one file in order. Only the columns with the text and the id are read."""
    position = 0
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if text_field not in names:
                raise DataError(f"{path}: {no_field(text_field, names)}.")
            rows, size = max(1, file.metadata.num_rows), path.stat().st_size
            columns = [name for name in {text_field, id_field} if name in names]
            for batch in file.iter_batches(_ROWS, columns=columns):
                for row in zip(*batch.columns, strict=True):
                    record = dict(zip(batch.schema.names, row, strict=True))
                    yield _document(record, path, position, text_field, id_field)
                    position += 1
                advance(size * batch.num_rows // rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error}); fetch it again.") from error


def identities(
    path: Path, places: Sequence[tuple[int, int]], text_field: str, id_field: str
) -> Iterator[tuple[int, str]]:
    """Yield (position, identity) of the rows at the places, in ascending order; reads ids, of their row groups only."""
    with pq.ParquetFile(path) as file:
        groups = [file.metadata.row_group(number).num_rows for number in range(file.num_row_groups)]
        ends = list(accumulate(groups))
        inside = [position for position, _ in places if position < file.metadata.num_rows]
        for group, positions in groupby(inside, key=lambda position: bisect_right(ends, position)):
            ids = None
            if id_field in file.schema_arrow.names:
                ids = file.read_row_group(group, columns=[id_field]).column(id_field)
            for position in positions:
                id_ = ids[position - ends[group] + groups[group]].as_py() if ids is not None else None
                yield position, identity_of(id_, str(path), position)


def _document(row: dict[str, pa.Scalar], path: Path, position: int, text_field: str, id_field: str) -> Document:
    try:
        record = {name: value.as_py() for name, value in row.items()}
        return to_document(record, str(path), position, text_field, id_field)
    except (ValueError, OverflowError) as error:
        raise DataError(f"{path}, row {position}: {error}.") from error
