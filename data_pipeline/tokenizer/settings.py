"""Where the tokenizer comes from."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from data_pipeline.settings import Location, Settings

ModelKind = Literal["byte_bpe", "sentencepiece_unigram", "sentencepiece_bpe", "wordpiece"]
"""Kinds of tokenizers that can be trained."""


def smallest_vocab_size(model: ModelKind, num_special_tokens: int = 0) -> int:
    """What a kind of tokenizer has before anything is learnt.

    Byte BPE: the bytes and a token that ends a document. sentencepiece: the bytes, `<unk>`, `<s>`, `</s>`, the space
    and the 94 visible characters of ASCII. WordPiece is given room for an alphabet.
    """
    fixed = {"byte_bpe": 257, "sentencepiece_bpe": 354, "sentencepiece_unigram": 354, "wordpiece": 257}
    return fixed[model] + num_special_tokens


class TrainTokenizer(Settings):
    """Train a tokenizer on the training documents."""

    kind: Literal["train"]
    """Selects this choice."""
    vocab_size: Annotated[int, Field(ge=257)]
    """Tokens to end up with: bytes or characters, special tokens, and what is learnt. A small corpus may give fewer."""
    model: ModelKind = "byte_bpe"
    """`byte_bpe` (GPT-2's words, every byte known), `sentencepiece_bpe` or `sentencepiece_unigram` (spaces are part of
    the pieces, rare characters fall back to bytes), or `wordpiece` (BERT: [PAD], [UNK], [CLS], [SEP], [MASK])."""
    special_tokens: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    """More special tokens, besides those of the model, which text never becomes: for fill-in-the-middle
    `["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]`. Not for `wordpiece`."""
    lowercase: bool = False
    """Only for `wordpiece`: ignore capitals and accents, as BERT's uncased models do."""
    sample_bytes: PositiveInt = 1 << 27
    """Bytes of text to train on, at most: of documents chosen by a hash of their ids, the last one cut short. Memory
    for each, measured: in English 12 bytes with `byte_bpe`, 10 with `wordpiece`, 13 with `sentencepiece_bpe`, 21 with
    `sentencepiece_unigram`; in Chinese up to 90, 10, 35 and 40."""
    model_max_length: PositiveInt = 2048
    """Longest sequence, as noted for transformers in tokenizer_config.json."""

    @model_validator(mode="after")
    def _fit_the_model(self) -> "TrainTokenizer":
        if self.lowercase and self.model != "wordpiece":
            raise ValueError(f"lowercase is for model: wordpiece; {self.model} keeps every byte of the text")
        if self.special_tokens and self.model == "wordpiece":
            raise ValueError("special_tokens are not for model: wordpiece, which has BERT's; choose another model")
        if len(set(self.special_tokens)) < len(self.special_tokens):
            raise ValueError("special_tokens names a token twice")
        for token in self.special_tokens:
            if len(token) < 2 or not token.isprintable() or any("\x80" <= c < "\u0144" for c in token):
                raise ValueError(
                    f"special_tokens: {token!r} is too like text, or how byte_bpe spells it: take several printable "
                    "characters, none from U+0080 to U+0143, such as <|name|>"
                )
        smallest = smallest_vocab_size(self.model, len(self.special_tokens))
        if self.vocab_size < smallest:
            raise ValueError(f"vocab_size={self.vocab_size} is too small: {self.model} begins with {smallest} tokens")
        return self


class LoadTokenizer(Settings):
    """Use a tokenizer that exists."""

    kind: Literal["load"]
    """Selects this choice."""
    path: Location
    """A folder with tokenizer.json, or a file: tokenizer.json, a sentencepiece model, tiktoken's ranks, Mistral's
    tekken.json or BERT's vocab.txt."""
    eos_token: str | None = None
    """The token that ends a document, where the file does not tell or another is wanted: `</s>`, `<|endoftext|>`."""
    pattern: str | None = None
    """Only for tiktoken's ranks: how text is split into words, as `gpt2`, `r50k`, `p50k`, `cl100k`, `o200k`, `llama3`
    or a regular expression; unset: the file's name begins with one of these."""


TokenizerSettings = Annotated[TrainTokenizer | LoadTokenizer, Field(discriminator="kind")]
