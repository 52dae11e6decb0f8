"""Which reader takes which file."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from data_pipeline.errors import DataError
from data_pipeline.read import arrow, csv_table, dataset, html_page, json_file, jsonl, mds, parquet, txt, warc
from data_pipeline.read.document import Broken, Document, Place
from data_pipeline.read.input import COMPRESSIONS, Input, compression_of
from data_pipeline.read.location import file_name, shown
from data_pipeline.read.settings import FilesSource, Source


class Format(NamedTuple):
    """A source format."""

    read: Callable[[Input, Place, int | None], Iterator[Document | Broken]]
    """Yields the records from a place on; of a format that can be cut, those that start before a byte."""
    suffixes: tuple[str, ...]
    """How the names of its files end, before a compression's own ending."""
    identities: Callable[[Input, Sequence[Place]], Iterator[tuple[int, str]]] | None = None
    """Finds the identities of records at places of a plain file faster than reading it does."""
    can_be_cut: bool = False
    """A plain file can be read in pieces."""


FORMATS = {
    "jsonl": Format(jsonl.read, jsonl.SUFFIXES, jsonl.identities, can_be_cut=True),
    "json": Format(json_file.read, json_file.SUFFIXES),
    "csv": Format(csv_table.read, csv_table.SUFFIXES),
    "tsv": Format(csv_table.read_tabs, csv_table.TAB_SUFFIXES),
    "txt": Format(txt.read, txt.SUFFIXES),
    "parquet": Format(parquet.read, parquet.SUFFIXES, parquet.identities),
    "arrow": Format(arrow.read, arrow.SUFFIXES),
    "mds": Format(mds.read, mds.SUFFIXES),
    "html": Format(html_page.read, html_page.SUFFIXES),
    "warc": Format(warc.read, warc.SUFFIXES),
}
"""By the name that the setting `format` takes."""
_DATASET = Format(dataset.read, ())
_BY_SUFFIX = {suffix: format_ for format_ in FORMATS.values() for suffix in format_.suffixes}
KNOWN = f"{', '.join(_BY_SUFFIX)}, each also with {' or '.join(COMPRESSIONS)} after it"
"""The files that can be read, for messages."""


def find_format(path: str, source: Source | None = None) -> Format | None:
    """The format that the settings name, or the one by the file's name; None where nobody here reads such files."""
    if path.startswith(dataset.SCHEME):
        return _DATASET
    if isinstance(source, FilesSource) and source.format:
        return FORMATS[source.format]
    name = file_name(path).lower()
    name = name.removesuffix(compression_of(path))
    return _BY_SUFFIX.get("." + name.rpartition(".")[2]) if "." in name else None


def format_of(path: str, source: Source | None = None) -> Format:
    """The format of a file. DataError where nobody here reads it."""
    found = find_format(path, source)
    if found is None:
        raise DataError(f"{shown(path)}: no reader for this kind of file; known: {KNOWN}; or name its `format`.")
    return found
