"""A tokenizer in a folder, as transformers writes and reads it: tokenizer.json and tokenizer_config.json."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tokenizers

from data_pipeline.errors import DataError
from data_pipeline.files import write_atomically

FILES = ("tokenizer.json", "tokenizer_config.json")
"""What makes up a tokenizer's folder."""


class Tokenizer:
    """Text to token ids and back. Text that spells a special token is encoded as ordinary text."""

    def __init__(self, tokenizer_json: bytes, config: dict) -> None:
        """Take the bytes of tokenizer.json and the settings of tokenizer_config.json."""
        self._json = tokenizer_json
        self._config = config
        self._tokenizer = tokenizers.Tokenizer.from_buffer(tokenizer_json)
        self._tokenizer.encode_special_tokens = True
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.digest = hashlib.sha256(tokenizer_json).hexdigest()
        """sha256 of tokenizer.json: the tokenizer's identity in every manifest."""
        self.vocab_size: int = 1 + max(self._tokenizer.get_vocab(with_added_tokens=True).values())
        """Largest id + 1."""
        self.eos_token = _content(config.get("eos_token"))
        eos_id = self._tokenizer.token_to_id(self.eos_token) if self.eos_token else None
        if eos_id is None:
            raise DataError(
                "tokenizer_config.json names no eos_token that tokenizer.json knows; "
                "documents could not be ended: add it there."
            )
        self.eos_id: int = eos_id

    @classmethod
    def load(cls, folder: str | Path) -> "Tokenizer":
        """Read a folder. DataError when a file is missing or damaged."""
        folder = Path(folder)
        parts = {}
        for name in FILES:
            try:
                parts[name] = (folder / name).read_bytes()
            except OSError as error:
                raise DataError(
                    f"no tokenizer at {folder}: cannot read {name} ({error.strerror}). "
                    "`megamodel data train-tokenizer` or `data prepare` makes one."
                ) from error
        try:
            return cls(parts["tokenizer.json"], json.loads(parts["tokenizer_config.json"]))
        except DataError as error:
            raise DataError(f"{folder}: {error}") from error
        except Exception as error:  # tokenizers raises bare Exception for a file it cannot parse
            raise DataError(f"{folder}: the tokenizer's files are damaged ({error}); make them again.") from error

    def save(self, folder: str | Path) -> None:
        """Write tokenizer.json and tokenizer_config.json, each aside and then renamed. DataError when that fails."""
        folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"cannot make the folder {folder}: {error.strerror}.") from error
        settings = json.dumps(self._config, indent=2, ensure_ascii=False) + "\n"
        write_atomically(folder / "tokenizer_config.json", settings.encode())
        write_atomically(folder / "tokenizer.json", self._json)

    def encode_batch(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Encode texts on all cores; one int32 array [tokens] each, with no special token added."""
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, dtype=np.int32) for encoding in encodings]

    def decode(self, ids: Sequence[int] | np.ndarray) -> str:
        """Turn ids back into text; special tokens show as their names, broken UTF-8 as U+FFFD."""
        return self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=False)

    def token_byte_lengths(self) -> np.ndarray:
        """Return int32 [vocab_size]: the bytes of text each id stands for, 0 for special tokens."""
        lengths = np.zeros(self.vocab_size, np.int32)
        added = self._tokenizer.get_added_tokens_decoder()
        byte_level = '"ByteLevel"' in self._json.decode()
        for token, index in self._tokenizer.get_vocab(with_added_tokens=True).items():
            if index in added:
                lengths[index] = 0 if added[index].special else len(token.encode())
            else:
                lengths[index] = _bytes_of(token, byte_level)
        return lengths


def _bytes_of(token: str, byte_level: bool) -> int:
    """Bytes behind an entry: byte-level ones have one character a byte, others spell a space as U+2581."""
    if byte_level:
        return len(token)
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return 1
    return len(token.replace("▁", " ").encode())


def _content(token: str | dict | None) -> str | None:
    """Special tokens stand in tokenizer_config.json as text or as an object with `content`."""
    return token.get("content") if isinstance(token, dict) else token
