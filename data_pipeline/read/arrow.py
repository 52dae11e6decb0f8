"""Arrow's own files, as the `datasets` library writes them: one row is one document."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from data_pipeline.read.document import Broken, Document, Place, no_field
from data_pipeline.read.input import Damaged, Input, is_damage
from data_pipeline.read.rows import UNREADABLE, documents

SUFFIXES = (".arrow",)

_FILE = b"ARROW1"


def read(file: Input, start: Place, end: int | None) -> Iterator[Document | Broken]:
    """Yield the rows from number `start.position` on, of a stream or a file."""
    position = first = 0
    try:
        with file.seekable() as raw:
            for batch in _batches(file, raw):
                if file.text_field not in batch.schema.names:
                    yield file.broken(0, 0, no_field(file.text_field, batch.schema.names))
                    return
                batch.validate(full=True)
                for item in documents(file, batch.slice(max(0, start.position - first)), max(first, start.position)):
                    yield item
                    position = item.position + 1
                first += batch.num_rows
    except (Damaged, OSError, *UNREADABLE) as error:
        if not is_damage(error):
            raise
        yield file.broken(max(position, start.position), 0, f"not a readable Arrow file ({error}); fetch it again")


def _batches(file: Input, raw: Any) -> Iterator[pa.RecordBatch]:
    told = 0
    for batch in _of_stream_or_file(raw):
        yield batch
        if not file.compression:
            here = raw.tell()
            file.advance(here - told)
            told = here


def _of_stream_or_file(raw: Any) -> Iterator[pa.RecordBatch]:
    is_file = raw.read(len(_FILE)) == _FILE
    raw.seek(0)
    if is_file:
        with pa.ipc.open_file(raw) as table:
            yield from map(table.get_batch, range(table.num_record_batches))
    else:
        with pa.ipc.open_stream(raw) as stream:
            yield from stream
