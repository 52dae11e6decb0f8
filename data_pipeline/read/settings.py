"""What a source of documents is told."""

from typing import Annotated, Literal

from pydantic import Field

from data_pipeline.settings import Place, Settings


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
    """Files, globs, folders and URLs (s3://, gs://, https://) of .jsonl, .json, .csv, .txt, .parquet, .html and .warc,
    each plain, .gz or .zst."""


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


Source = Annotated[FilesSource | DatasetSource, Field(discriminator="kind")]
