"""What `megamodel data prepare` is told: the only schema of configs/data/*.yaml."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt

from data_pipeline.shards import TOKENS_PER_SHARD


def _home(path: str) -> str:
    """`~/books` as the shell would read it; a folder literally named ~ is never what is meant."""
    try:
        return str(Path(path).expanduser()) if path.startswith("~") else path
    except RuntimeError:
        raise ValueError(f"there is no home folder for {Path(path).parts[0]}") from None


_Location = Annotated[Path, AfterValidator(lambda path: Path(_home(str(path))))]


class _Settings(BaseModel):
    """A group of settings: unknown names are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class TrainTokenizer(_Settings):
    """Train a byte-level BPE tokenizer on the training documents."""

    kind: Literal["train"]
    """Selects this choice."""
    vocab_size: Annotated[int, Field(ge=257)]
    """Tokens to end up with: 256 bytes, the end-of-document token, and merges."""
    model_max_length: PositiveInt = 2048
    """Longest sequence, as noted for transformers in tokenizer_config.json."""


class LoadTokenizer(_Settings):
    """Use a tokenizer that exists."""

    kind: Literal["load"]
    """Selects this choice."""
    path: _Location
    """Folder with tokenizer.json and tokenizer_config.json."""


class PrepareConfig(_Settings):
    """From raw text to the shard sets OUT/train and OUT/validation and the tokenizer OUT/tokenizer."""

    out: _Location
    """Folder to make. It appears whole, when everything in it is done."""
    files: Annotated[list[Annotated[str, AfterValidator(_home)]], Field(min_length=1)]
    """The corpus: files, globs or folders of .jsonl, .jsonl.gz, .jsonl.zst, .txt and .parquet."""
    text_field: str = "text"
    """Field of a record that holds the text."""
    id_field: str = "id"
    """Field of a record that holds the document's id; records without one are named FILE:RECORD."""
    tokenizer: Annotated[TrainTokenizer | LoadTokenizer, Field(discriminator="kind")]
    """The tokenizer: `kind: train` or `kind: load`. Either way it is also saved in OUT/tokenizer."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of the documents kept for validation; 0: no validation set."""
    split_seed: NonNegativeInt = 1234
    """With each document's id, decides on which side of the split it falls."""
    tokens_per_shard: PositiveInt = TOKENS_PER_SHARD
    """A shard is closed when the next document would not fit."""
