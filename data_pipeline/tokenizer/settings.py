"""Where the tokenizer comes from."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt

from data_pipeline.settings import Location, Settings


class TrainTokenizer(Settings):
    """Train a tokenizer on the training documents."""

    kind: Literal["train"]
    """Selects this choice."""
    vocab_size: Annotated[int, Field(ge=257)]
    """Tokens to end up with: 256 bytes, the end-of-document token, and merges."""
    model_max_length: PositiveInt = 2048
    """Longest sequence, as noted for transformers in tokenizer_config.json."""


class LoadTokenizer(Settings):
    """Use a tokenizer that exists."""

    kind: Literal["load"]
    """Selects this choice."""
    path: Location
    """Folder with tokenizer.json and tokenizer_config.json."""


TokenizerSettings = Annotated[TrainTokenizer | LoadTokenizer, Field(discriminator="kind")]
