"""From a path to the files of a tokenizer: a folder, or one file, told apart by what stands in it.

- a folder: its tokenizer.json; without one, the only file in it of a kind below
- tokenizer.json, with the tokenizer_config.json beside it where there is one
- a sentencepiece model (`tokenizer.model`, `spiece.model`, `.model.v3`, ...)
- tiktoken's ranks (`cl100k_base.tiktoken`; Llama 3's `tokenizer.model` is one, too)
- Mistral's tekken.json
- BERT's vocab.txt
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.tokenizer.sentencepiece_model import BPE, UNIGRAM, parse_model, to_json
from data_pipeline.tokenizer.tiktoken_ranks import is_ranks, tekken_to_json, tiktoken_to_json
from data_pipeline.tokenizer.vocab_txt import is_vocab, vocab_to_json

SENTENCEPIECE = {"encoder": "sentencepiece"}
"""Stands in tokenizer_config.json where tokenizer.model is the truth and tokenizer.json was made from it."""
_CONFIG, _JSON, _MODEL = "tokenizer_config.json", "tokenizer.json", "tokenizer.model"
_OTHERS = ("*.model", "*.model.v*", "*.tiktoken", "tekken*.json", "vocab.txt")
_LARGEST = 1 << 30
_HELP = (
    "a tokenizer is a folder with tokenizer.json, or a tokenizer.json, a sentencepiece model, a tiktoken ranks file, a "
    "tekken.json or BERT's vocab.txt. `megamodel data train-tokenizer` makes one."
)


@dataclass(frozen=True)
class TokenizerFiles:
    """What a tokenizer's folder consists of."""

    json: bytes | None
    """tokenizer.json; None for sentencepiece's word and character models, which it cannot express."""
    config: dict[str, Any]
    """Content of tokenizer_config.json."""
    model: bytes | None = None
    """tokenizer.model, for sentencepiece: then it is the truth."""

    @property
    def truth(self) -> bytes:
        """The bytes that say how text is encoded."""
        return self.model or self.json or b""

    def named(self) -> dict[str, bytes]:
        """Bytes by the name of the file."""
        config = json.dumps(self.config, indent=2, ensure_ascii=False) + "\n"
        parts = {_CONFIG: config.encode(), _MODEL: self.model, _JSON: self.json}
        return {name: data for name, data in parts.items() if data is not None}


def new_config(eos_token: str, model_max_length: int = 2048) -> dict[str, Any]:
    """Settings for transformers; `PreTrainedTokenizerFast` is the class that versions 4 and 5 both read."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": eos_token,
        "eos_token": eos_token,
        "unk_token": eos_token,
        "model_max_length": model_max_length,
        "clean_up_tokenization_spaces": False,
    }


def content_of(token: str | dict | None) -> str | None:
    """Special tokens stand in tokenizer_config.json as text or as an object with `content`."""
    return token.get("content") if isinstance(token, dict) else token


def read_files(path: Path, eos_token: str | None, pattern: str | None) -> TokenizerFiles:
    """Read what is at `path`. DataError when there is nothing, it is damaged, or it cannot be known what it means."""
    file = _file_of(path) if path.is_dir() else path
    data = _read(file, path)
    try:
        files = _files(file, data, eos_token, pattern)
    except DataError as error:
        raise DataError(f"{file}: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(f"{file}: the tokenizer's file is damaged ({error}); copy or make it again.") from error
    if eos_token is None:
        return files
    return TokenizerFiles(files.json, files.config | {"eos_token": eos_token}, files.model)


def _file_of(folder: Path) -> Path:
    """The file of a folder that says how text is encoded."""
    if (folder / _JSON).is_file():
        config = _beside(folder / _JSON)
        return folder / (_MODEL if config and config.items() >= SENTENCEPIECE.items() else _JSON)
    found = sorted({file for pattern in _OTHERS for file in folder.glob(pattern)})
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise DataError(f"{folder} holds several tokenizers: {names}; name the file that is meant.")
    if not found:
        raise DataError(f"no tokenizer at {folder}: {_HELP}")
    return found[0]


def _read(file: Path, path: Path) -> bytes:
    try:
        if file.stat().st_size > _LARGEST:
            raise DataError(f"{file} is larger than 1 GiB: {_HELP}")
        return file.read_bytes()
    except OSError as error:
        raise DataError(f"no tokenizer at {path}: cannot read {file.name} ({error.strerror}); {_HELP}") from error


def _files(file: Path, data: bytes, eos_token: str | None, pattern: str | None) -> TokenizerFiles:
    if data[:64].lstrip()[:1] == b"{":
        return _of_json(file, data, eos_token)
    if is_ranks(data):
        converted, eos = tiktoken_to_json(data, file.stem, pattern, eos_token)
        return TokenizerFiles(converted, new_config(eos))
    if is_vocab(data):
        return TokenizerFiles(vocab_to_json(data), wordpiece_config())
    return sentencepiece_files(data, _beside(file))


def _of_json(file: Path, data: bytes, eos_token: str | None) -> TokenizerFiles:
    content = json.loads(data)
    if "model" in content:
        config = _beside(file)
        if config is None and eos_token is None:
            raise DataError(f"cannot read {_CONFIG} beside it, which names the end-of-document token: set `eos_token`.")
        return TokenizerFiles(data, new_config(eos_token) if config is None and eos_token else config or {})
    if "vocab" in content and "config" in content:
        return TokenizerFiles(tekken_to_json(content), new_config("</s>"))
    raise DataError(f"this JSON is no tokenizer: {_HELP}")


def sentencepiece_files(data: bytes, config: dict[str, Any] | None = None) -> TokenizerFiles:
    """The files of a sentencepiece model. ValueError when it is damaged."""
    try:
        model = parse_model(data)
    except (ValueError, KeyError) as error:
        raise DataError(f"this is no tokenizer that is known here, or damaged ({error}): {_HELP}") from error
    converted = to_json(model) if model.algorithm in (UNIGRAM, BPE) else None
    given = config if config and config.items() >= SENTENCEPIECE.items() else new_config(model.eos) | SENTENCEPIECE
    return TokenizerFiles(converted, given, data)


def wordpiece_config(model_max_length: int = 2048) -> dict[str, Any]:
    """BERT's special tokens; a document ends with [SEP]."""
    names = ("pad", "unk", "cls", "sep", "mask")
    special = {f"{name}_token": f"[{name.upper()}]" for name in names}
    return new_config("[SEP]", model_max_length) | {"bos_token": "[CLS]"} | special


def _beside(file: Path) -> dict[str, Any] | None:
    """tokenizer_config.json in the folder of `file`; None when there is none."""
    path = file.with_name(_CONFIG)
    try:
        content = json.loads(path.read_bytes())
        json.dumps(content, ensure_ascii=False).encode()  # as it is saved: an escape may spell half a character
    except OSError:
        return None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}); make it again.") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged: it holds no settings; make it again.")
    return content
