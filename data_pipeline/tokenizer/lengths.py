"""Bytes of text behind each id."""

from collections.abc import Callable
from typing import Any

import numpy as np

from data_pipeline.tokenizer.byte_letters import byte_letters
from data_pipeline.tokenizer.sentencepiece_model import BYTE, NORMAL, SPACE, USER_DEFINED, Model


def byte_lengths(content: dict[str, Any], vocab_size: int) -> np.ndarray:
    """int32 [vocab_size] for a parsed tokenizer.json. WordPiece forgets spaces, which are counted nowhere."""
    lengths = np.zeros(vocab_size, np.int32)
    vocab = content["model"]["vocab"]
    entries = vocab.items() if isinstance(vocab, dict) else ((entry[0], i) for i, entry in enumerate(vocab))
    spell = _speller(content)
    for token, index in entries:
        lengths[index] = spell(token)
    for added in content.get("added_tokens", []):
        lengths[added["id"]] = 0 if added["special"] else len(added["content"].encode())
    return lengths


def partial_bytes(content: dict[str, Any], vocab_size: int) -> np.ndarray:
    """bool [vocab_size]: ids that are one byte of a character of several, for a parsed tokenizer.json."""
    vocab = content["model"]["vocab"]
    entries = vocab if isinstance(vocab, dict) else {entry[0]: index for index, entry in enumerate(vocab)}
    names = [f"<0x{byte:02X}>" for byte in range(0x80, 0x100)]
    if _is_byte_level(content):
        letters = byte_letters()
        names = [letters[byte] for byte in range(0x80, 0x100)]
    parts = np.zeros(vocab_size, bool)
    parts[[entries[name] for name in names if name in entries]] = True
    return parts


def model_byte_lengths(model: Model) -> np.ndarray:
    """int32 [pieces] for a sentencepiece model."""
    return np.array(
        [_piece(piece.text) if piece.kind in (NORMAL, USER_DEFINED, BYTE) else 0 for piece in model.pieces], np.int32
    )


def _speller(content: dict[str, Any]) -> Callable[[str], int]:
    if _is_byte_level(content):
        return len  # one character a byte
    prefix = content["model"].get("continuing_subword_prefix")
    if prefix:
        return lambda token: len(token.removeprefix(prefix).encode())
    return _piece


def _is_byte_level(content: dict[str, Any]) -> bool:
    return _mentions(content.get("pre_tokenizer"), "ByteLevel") or _mentions(content.get("decoder"), "ByteLevel")


def _mentions(step: Any, kind: str) -> bool:
    """True when a step of tokenizer.json, or one inside it, is of this kind."""
    if isinstance(step, list):
        return any(_mentions(part, kind) for part in step)
    return isinstance(step, dict) and (
        step.get("type") == kind or any(_mentions(step.get(name), kind) for name in ("pretokenizers", "decoders"))
    )


def _piece(token: str) -> int:
    """Others spell a space as U+2581 and a byte without a character as <0xE4>."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return 1
    return len(token.replace(SPACE, " ").encode())
