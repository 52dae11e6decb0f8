"""Encoders: texts to ids. The references are the libraries that define a tokenizer; fastokens is the fast one."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np


class Flat(NamedTuple):
    """Ids of several texts, one after another."""

    ids: np.ndarray
    """int32 [total]"""
    lengths: np.ndarray
    """int64 [texts]: ids of each text."""

    def split(self) -> list[np.ndarray]:
        """One int32 array a text, views of `ids`."""
        return np.split(self.ids, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []


class Encoder(Protocol):
    """Turns texts into ids, with no special token added, and what spells a special token encoded as text."""

    name: str
    """The library that does the work."""

    def encode(self, texts: Sequence[str]) -> Flat:
        """Encode texts that are valid Unicode (no lone surrogates)."""
        ...


ONE_THREAD = {"RAYON_NUM_THREADS": "1", "FASTOKENS_BPE_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
"""Environment of a process whose encoders should use one core; each library has a pool of threads of its own."""


class HuggingFaceEncoder:
    """The `tokenizers` library: the reference for every tokenizer.json."""

    name = "tokenizers"

    def __init__(self, tokenizer_json: bytes) -> None:
        """Take the bytes of tokenizer.json. Raises whatever the library makes of damaged ones."""
        import tokenizers

        self.tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_json)
        self.tokenizer.encode_special_tokens = True
        self.tokenizer.no_truncation()
        self.tokenizer.no_padding()
        model = self.tokenizer.model
        if isinstance(model, tokenizers.models.BPE):
            model.dropout = None  # leaves merges out at random, other ones each time

    def encode(self, texts: Sequence[str]) -> Flat:
        """2 to 5 MB of text a second and core, about 100 bytes of memory for each byte of text in the batch."""
        return flat_of([e.ids for e in self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)])


class SentencePieceEncoder:
    """The sentencepiece library: the reference for a sentencepiece model."""

    name = "sentencepiece"

    def __init__(self, model: bytes) -> None:
        """Take the bytes of a model file. Raises RuntimeError for damaged ones."""
        import sentencepiece

        self.processor = sentencepiece.SentencePieceProcessor(model_proto=model)

    def encode(self, texts: Sequence[str]) -> Flat:
        """One text after another: 5 to 25 MB a second. NUL would end a C string in places, but does not here."""
        return flat_of(self.processor.encode(list(texts), num_threads=1))


class FastEncoder:
    """The fastokens library: byte-pair encoding at 50 to 150 MB a second and core."""

    name = "fastokens"

    def __init__(self, tokenizer_json: bytes) -> None:
        """Take the bytes of tokenizer.json. ValueError when the library cannot do what they ask for."""
        import fastokens

        self._tokenizer = fastokens.Tokenizer.from_json_str(tokenizer_json.decode())
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def encode(self, texts: Sequence[str]) -> Flat:
        """Encode through one flat buffer: no Python object a token."""
        ids, offsets = self._tokenizer.encode_batch_flat(list(texts), split_special_tokens=True)
        return Flat(np.frombuffer(ids, np.int32), np.diff(np.frombuffer(offsets, np.uint64).astype(np.int64)))


def flat_of(lists: Sequence[Sequence[int]]) -> Flat:
    """Join lists of ids."""
    lengths = np.fromiter(map(len, lists), np.int64, len(lists))
    parts = [np.array(ids, np.int32) for ids in lists]
    return Flat(np.concatenate(parts) if parts else np.empty(0, np.int32), lengths)
