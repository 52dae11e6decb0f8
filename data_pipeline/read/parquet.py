"""Parquet: one row is one document, read a batch of rows at a time."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.errors import DataError
from data_pipeline.read.document import Document, to_document

SUFFIXES = (".parquet",)
_ROWS = 1024


def read(path: Path, text_field: str, id_field: str, advance: Callable[[int], object]) -> Iterator[Document]:
    """Yield the rows of one file in order."""
    position = 0
    try:
        with pq.ParquetFile(path) as file:
            rows, size = max(1, file.metadata.num_rows), path.stat().st_size
            for batch in file.iter_batches(_ROWS):
                for row in batch.to_pylist():
                    yield _document(row, path, position, text_field, id_field)
                    position += 1
                advance(size * batch.num_rows // rows)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable parquet file ({error}); fetch it again.") from error


def _document(row: dict, path: Path, position: int, text_field: str, id_field: str) -> Document:
    try:
        return to_document(row, str(path), position, text_field, id_field)
    except ValueError as error:
        raise DataError(f"{path}, row {position}: {error}.") from error
