"""Bytes of text behind each id."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np

from data_pipeline.tokenizer.byte_letters import byte_letters
from data_pipeline.tokenizer.sentencepiece_model import BYTE, NORMAL, SPACE, USER_DEFINED, Model


def byte_lengths(
    content: dict[str, Any], vocab: Mapping[str, int], special: Collection[str], added: Collection[str]
) -> np.ndarray:
    """int32 [vocab_size] for a parsed tokenizer.json. WordPiece forgets spaces, which are counted nowhere.

    `vocab`: the id of each token; `special`: those of no text; `added`: others that stand as they are.
    """
    lengths = np.zeros(1 + max(vocab.values()), np.int32)
    spell = _speller(content)
    for token, index in vocab.items():
        if token not in special:
            lengths[index] = len(token.encode()) if token in added else spell(token)
    return lengths


def partial_bytes(content: dict[str, Any], vocab: Mapping[str, int]) -> np.ndarray:
    """bool [vocab_size]: ids that are one byte of a character of several, for a parsed tokenizer.json."""
    names = [f"<0x{byte:02X}>" for byte in range(0x80, 0x100)]
    if _is_byte_level(content):
        letters = byte_letters()
        names = [letters[byte] for byte in range(0x80, 0x100)]
    parts = np.zeros(1 + max(vocab.values()), bool)
    parts[[vocab[name] for name in names if name in vocab]] = True
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
