"""A tokenizer in a folder, as transformers reads it, or in any of the files that tokenizers come in.

One representation is the truth for each kind, and its sha256 is the tokenizer's identity: tokenizer.json for byte-level
BPE, WordPiece, tiktoken ranks and tekken.json (converted with equal ids, see tiktoken_ranks.py), tokenizer.model for
sentencepiece (encoded by that library itself; the tokenizer.json beside it is for exports, see sentencepiece_model.py).
With `fast`, texts go through fastokens where it applies, under the eyes of the reference (fast.py).
"""

import hashlib
import json
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.files import write_atomically
from data_pipeline.tokenizer.encoders import Encoder, Flat, HuggingFaceEncoder, SentencePieceEncoder
from data_pipeline.tokenizer.fast import watched
from data_pipeline.tokenizer.lengths import byte_lengths, model_byte_lengths, partial_bytes
from data_pipeline.tokenizer.long_texts import LongTexts
from data_pipeline.tokenizer.read import TokenizerFiles, content_of, read_files
from data_pipeline.tokenizer.sentencepiece_model import UNKNOWN, USER_DEFINED, is_convertible, parse_model
from data_pipeline.tokenizer.special_text import guarded, unknown_of

FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
"""What can make up a tokenizer's folder."""
_SURROGATE = re.compile("[\ud800-\udfff]")


class Tokenizer:
    """Text to token ids and back. Text that spells a special token is encoded as ordinary text."""

    def __init__(
        self, tokenizer_json: bytes | None, config: dict, model: bytes | None = None, fast: bool = False
    ) -> None:
        """Take tokenizer.json's bytes, tokenizer_config.json's content and, for sentencepiece, the model's bytes."""
        self._files = TokenizerFiles(tokenizer_json, config, model)
        self._hf = HuggingFaceEncoder(tokenizer_json) if tokenizer_json else None
        self._model = parse_model(model) if model else None
        self._reference, self._json = self._reference_encoder()
        self.digest = hashlib.sha256(self._files.truth).hexdigest()
        """sha256 of tokenizer.json or, for sentencepiece, of tokenizer.model: the identity in every manifest."""
        ids = self._ids()
        self.vocab_size: int = 1 + max(ids.values())
        """Largest id + 1."""
        self.eos_token = content_of(config.get("eos_token"))
        self.eos_id: int = self._eos_id(ids)
        encoder, self.note = self._bulk_encoder() if fast else (self._reference, "")
        """Why texts do not go through the fast encoder, in a sentence; empty when they do, or were not asked to."""
        self._encoder = LongTexts(encoder)

    @classmethod
    def load(
        cls, path: str | Path, *, fast: bool = False, eos_token: str | None = None, pattern: str | None = None
    ) -> "Tokenizer":
        """Read a folder or a file of any kind (see read.py). DataError when it is missing, damaged or says too little.

        `fast`: use the fast encoder; then encoding may raise FastEncoderDiffers (see fast.py).
        `eos_token`, `pattern`: what the file does not tell.
        """
        files = read_files(Path(path), eos_token, pattern)
        try:
            return cls(files.json, files.config, files.model, fast)
        except DataError as error:
            raise DataError(f"{path}: {error}") from error
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the libraries raise bare Exception, or panic, for a file they cannot use
            raise DataError(f"{path}: the tokenizer's files are damaged ({error}); make them again.") from error

    def save(self, folder: str | Path) -> None:
        """Write the files, each aside and then renamed, so that `load` gives the same again. DataError if it fails."""
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make the folder {folder}: {error.strerror}.") from error
        for name, data in self._files.named().items():
            write_atomically(folder / name, data)

    @property
    def encoder(self) -> str:
        """The library that encodes: fastokens, tokenizers or sentencepiece."""
        return self._encoder.name

    @property
    def config(self) -> dict:
        """Content of tokenizer_config.json."""
        return dict(self._files.config)

    def encode_flat(self, texts: Sequence[str]) -> Flat:
        """Encode texts into one array of ids and the length of each, with no special token added.

        A lone surrogate, which is no Unicode text, is encoded as U+FFFD. DataError when the library gives up;
        FastEncoderDiffers when this was loaded with `fast` and the ids are not to be trusted.
        """
        try:
            return self._encoder.encode(texts)
        except (MemoryError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # the libraries have none of their own, and some panic
            repaired = [_SURROGATE.sub("\ufffd", text) for text in texts]
            if repaired != list(texts):
                return self.encode_flat(repaired)
            if isinstance(error, DataError):
                raise
            raise DataError(f"{self.encoder} cannot encode a text: {error}.") from error

    def to_json(self) -> bytes | None:
        """The bytes of tokenizer.json; None for a sentencepiece model that has none."""
        return self._files.json

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts; one int32 array [tokens] each."""
        return self.encode_flat(texts).split()

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Turn ids back into text; special tokens show as their names, broken UTF-8 as U+FFFD."""
        numbers = [int(i) for i in ids]
        if self._hf:
            return self._hf.tokenizer.decode(numbers, skip_special_tokens=False)
        assert isinstance(self._reference, SentencePieceEncoder)
        return self._reference.processor.decode(numbers)

    def token_byte_lengths(self) -> np.ndarray:
        """Return int32 [vocab_size]: the bytes of text each id stands for, 0 for special tokens."""
        if self._model:
            return model_byte_lengths(self._model)
        assert self._files.json is not None and self._hf is not None
        added = [token.content for token in self._hf.tokenizer.get_added_tokens_decoder().values()]
        return byte_lengths(json.loads(self._files.json), self._ids(), {*self.special_tokens}, {*added})

    def partial_bytes(self) -> np.ndarray:
        """Return bool [vocab_size]: ids that are one byte of a character of several."""
        if self._files.json is None:
            return np.zeros(self.vocab_size, bool)
        return partial_bytes(json.loads(self._files.json), self._ids())

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """Name and id of each token that stands for no text."""
        if self._model:
            return self._model.special_tokens()
        assert self._hf is not None
        added = self._hf.tokenizer.get_added_tokens_decoder()
        return {token.content: index for index, token in added.items() if token.special}

    @cached_property
    def unknown_ids(self) -> list[int]:
        """The ids that stand for what the vocabulary cannot spell: one, or none where all bytes are known."""
        if self._model:
            return list(self._model.names(UNKNOWN).values())
        name = unknown_of(json.loads(self._files.json or b"{}")["model"])
        return [] if name is None else [self._ids()[name]]

    def _reference_encoder(self) -> tuple[Encoder, bytes | None]:
        """The library that defines the ids, and the tokenizer.json with which they are encoded."""
        if self._files.model:
            return SentencePieceEncoder(self._files.model), self._files.json
        if self._hf is None or self._files.json is None:
            raise DataError("it has neither a tokenizer.json nor a sentencepiece model.")
        return guarded(self._hf, self._files.json)

    def _bulk_encoder(self) -> tuple[Encoder, str]:
        """The fast encoder where it applies, else the reference and why."""
        if self._json is None or (self._model and not is_convertible(self._model)):
            return self._reference, "only sentencepiece gives this model's ids; texts are encoded at some MB a second."
        if not self._model:
            return watched(self._json, self._reference, self.special_tokens)
        names, runs = self._model.names(USER_DEFINED), 4 * self._model.longest_run
        return watched(self._json, self._reference, self.special_tokens, runs, list(names))

    def _ids(self) -> dict[str, int]:
        if self._model:
            return {piece.text: index for index, piece in enumerate(self._model.pieces)}
        assert self._hf is not None
        return self._hf.tokenizer.get_vocab(with_added_tokens=True)

    def _eos_id(self, ids: dict[str, int]) -> int:
        found = ids.get(self.eos_token) if self.eos_token else None
        if found is None:
            known = ", ".join(list(self.special_tokens)[:8]) or "none"
            raise DataError(
                f"the end-of-document token is {'not set' if self.eos_token is None else repr(self.eos_token)}, and "
                "documents could not be ended: set `eos_token` (in the configuration or in tokenizer_config.json) to a "
                f"token of the vocabulary. Its special tokens: {known}."
            )
        return found
