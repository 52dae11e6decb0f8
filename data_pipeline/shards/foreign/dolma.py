"""The table beside Dolma's token files (.csv.gz): start, end, id, source file and record of each document."""

import csv
import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.read.document import hash_identity, identity_of
from data_pipeline.shards.manifest import LONGEST_NAME, PROVENANCE

_ROWS = 1 << 16
"""Rows held at once."""
_LONGEST_LINE = 1 << 16
_MOST_SOURCES = 1 << 20


def read_table(table: Path, ends: Path, documents: Path, sources: dict[str, int]) -> None:
    """Write the documents' ends (raw u64) and their provenance, in constant memory.

    `sources` numbers the source files, and is extended. DataError names the row that cannot be right.
    """
    count = 0
    with ends.open("wb") as out, documents.open("wb") as rows_out:
        _write_header(rows_out, 0)
        for rows, row_ends in _blocks(table, sources):
            out.write(row_ends.tobytes())
            rows_out.write(rows.tobytes())
            count += len(rows)
        rows_out.seek(0)
        _write_header(rows_out, count)


def _write_header(file: BinaryIO, count: int) -> None:
    """Write the header of a .npy file of `count` rows; NumPy leaves room in it for a larger count."""
    header = {"descr": PROVENANCE.descr, "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(file, header)


def _blocks(table: Path, sources: dict[str, int]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    rows: list[tuple[int, int, int, int]] = []
    ends: list[int] = []
    number = 0
    try:
        with gzip.open(table, "rt", encoding="utf-8", newline="") as file:
            place = 0
            for fields in csv.reader(_lines(file)):
                place = _next(fields, place)
                number += 1
                ends.append(place)
                rows.append(_provenance(fields, sources))
                if len(rows) == _ROWS:
                    yield np.array(rows, PROVENANCE), np.array(ends, "<u8")
                    rows, ends = [], []
    except (OSError, EOFError, zlib.error, ValueError, OverflowError, csv.Error) as error:
        raise DataError(f"{table} is damaged after row {number}: {error}; bring it back.") from error
    if rows:
        yield np.array(rows, PROVENANCE), np.array(ends, "<u8")


def _lines(file: TextIO) -> Iterator[str]:
    """Yield lines; ValueError when one is far longer than any row, before it is in memory."""
    while line := file.readline(_LONGEST_LINE):
        if len(line) == _LONGEST_LINE:
            raise ValueError(f"a line is longer than {_LONGEST_LINE} characters")
        yield line


def _next(fields: list[str], place: int) -> int:
    """Return where the document ends that begins at `place`. ValueError when it begins elsewhere or ends before."""
    if len(fields) != 5:
        raise ValueError(f"a row has {len(fields)} fields, not start, end, id, src, loc")
    start, end = int(fields[0]), int(fields[1])
    if start != place or not start <= end < 2**62:
        raise ValueError(f"a document goes from {start:,} to {end:,}, the one before it ended at {place:,}")
    return end


def _provenance(fields: list[str], sources: dict[str, int]) -> tuple[int, int, int, int]:
    """One row of PROVENANCE; Dolma counts the records of a file from 1."""
    _, _, id_, source, loc = fields
    record = max(0, int(loc) - 1)
    if record >= 2**63:
        raise ValueError(f"there is no record {loc}")
    if "\0" in source or len(source) > LONGEST_NAME:
        raise ValueError(f"no file is called {source[:60]!r}")
    if source not in sources and len(sources) >= _MOST_SOURCES:
        raise ValueError(f"there are more than {_MOST_SOURCES:,} source files")
    file = sources.setdefault(source, len(sources))
    return file, record, 0, hash_identity(identity_of(id_ or None, source, record))
