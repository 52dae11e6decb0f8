"""The texts of evaluation data: every string in every record, whatever its field is called."""

import codecs
import csv
import io
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_pipeline.errors import DataError
from data_pipeline.read import Broken, read, shown
from data_pipeline.read.formats import FORMATS, find_format
from data_pipeline.read.input import Damaged, Input
from data_pipeline.read.json_value import parse
from data_pipeline.read.lines import BadLine, batches, whole
from data_pipeline.read.rows import UNREADABLE
from data_pipeline.read.settings import FilesSource


def texts_of(path: str) -> Iterator[str]:
    """Yield the texts of one file. DataError where it cannot be read: what is not seen here stays in the corpus."""
    file = Input(path, shown(path))
    try:
        for record in _records_of(path)(file):
            yield from _strings(record)
    except (Damaged, *UNREADABLE, csv.Error, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read the evaluation data {file.name}: {reason}; mend it or leave it out.") from error


def _records_of(path: str) -> Callable[[Input], Iterator[Any]]:
    """What reads the records of such a file, with all of their fields."""
    known = {"jsonl": _json_lines, "json": _json, "csv": _table(","), "tsv": _table("\t"), "parquet": _parquet}
    return next((known[name] for name in known if find_format(path) is FORMATS[name]), _documents)


def _json_lines(file: Input) -> Iterator[Any]:
    number = 0
    for _, lines in batches(file):
        for line in lines:
            number += 1
            if isinstance(line, BadLine):
                raise ValueError(f"line {number}: {line.problem}")
            if line.removeprefix(codecs.BOM_UTF8).strip():
                yield _parsed(line, f"line {number}: ")


def _json(file: Input) -> Iterator[Any]:
    yield _parsed(whole(file), "")


def _parsed(text: bytes, place: str) -> Any:
    try:
        return parse(text.removeprefix(codecs.BOM_UTF8))
    except ValueError as error:
        raise ValueError(f"{place}{error}") from error


def _table(delimiter: str) -> Callable[[Input], Iterator[Any]]:
    def rows(file: Input) -> Iterator[Any]:
        with file.uncompressed() as stream:
            yield from csv.reader(io.TextIOWrapper(stream, "utf-8-sig", newline=""), delimiter=delimiter)

    return rows


def _parquet(file: Input) -> Iterator[Any]:
    with file.seekable() as raw, pq.ParquetFile(raw) as table:
        for batch in table.iter_batches(batch_size=1000):
            yield from _rows(batch)


def _rows(batch: pa.RecordBatch) -> Iterator[Any]:
    for column in batch.columns:
        yield from column.to_pylist()


def _documents(file: Input) -> Iterator[Any]:
    """Text, web pages, ...: formats in which a record has one text."""
    for item in read(file.path, FilesSource(kind="files", files=[file.path])):
        if isinstance(item, Broken):
            raise ValueError(item.reason)
        yield item.text


def _strings(value: Any) -> Iterator[str]:
    """The strings in a value, however deep; names of fields are none."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)
