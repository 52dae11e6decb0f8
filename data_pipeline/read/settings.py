"""What a source of documents is told."""

import codecs
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from data_pipeline.settings import Place, Settings

_NO_ENCODINGS = ("unicode_escape", "raw_unicode_escape", "utf-7", "idna", "punycode")
"""Ways to write other text than Unicode's, or half characters, which no file is written in."""


def known_encoding(name: str) -> str:
    """A name that Python knows for an encoding of text. ValueError otherwise."""
    try:
        "".encode(name)
        if codecs.lookup(name).name in _NO_ENCODINGS:
            raise LookupError(name)
    except LookupError:
        raise ValueError(
            f"{name} is no encoding; known are utf-8, utf-16, latin-1, cp1252, gb18030, big5, ..."
        ) from None
    return name


class Fields(Settings):
    """Which fields of a record hold what."""

    text_field: str = "text"
    """Field of a record that holds the text."""
    id_field: str = "id"
    """Field of a record that holds the document's id; records without one are named FILE:RECORD."""
    language: str | None = None
    """Language of all its documents (en, zh, ...), where it is known; unset: the `language` step may find it."""


class FilesSource(Fields):
    """Files of text: on this machine, or wherever fsspec reaches."""

    kind: Literal["files"]
    """Selects this choice."""
    name: str = ""
    """Name in the report; unset: the first of `files`."""
    files: Annotated[list[Place], Field(min_length=1)]
    """Files, globs, folders and URLs (s3://, gs://, https://) of .jsonl, .json, .csv, .tsv, .txt, .parquet, .arrow,
    .html and .warc, each plain, .gz or .zst."""
    format: Literal["jsonl", "json", "csv", "tsv", "txt", "parquet", "arrow", "mds", "html", "warc"] | None = None
    """What the files are; unset: their names tell. A name that ends in .gz or .zst always says the compression."""
    encoding: Annotated[str, AfterValidator(known_encoding)] | None = None
    """Encoding of .csv, .tsv, .txt and .html; unset: UTF-8, and for .html what the page says."""


class DatasetSource(Fields):
    """A Hugging Face dataset, streamed."""

    kind: Literal["dataset"]
    """Selects this choice."""
    name: str = ""
    """Name in the report; unset: the dataset."""
    dataset: Place
    """A folder that `datasets` wrote or can load, or a name on the Hub."""
    subset: str | None = None
    """Which of the dataset's configurations; unset: its default."""
    split: str = "train"
    """Which split."""
    revision: str | None = None
    """Which revision of a dataset on the Hub; unset: its newest when the work begins, also when it goes on later."""


Source = Annotated[FilesSource | DatasetSource, Field(discriminator="kind")]
