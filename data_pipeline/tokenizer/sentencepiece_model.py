"""What a sentencepiece model says, and the same as a tokenizer.json for other software and for the fast encoder.

The model itself stays the truth: `tokenizer.model` lies in the saved folder and sentencepiece encodes, unless the
model is byte-pair encoding of a kind where the tokenizer.json provably gives the same ids (`is_convertible`) and the
fast encoder agrees on the probe and on the running sample. Measured on Mistral's v1 to v7 and on models trained
here; for unigram models the two libraries round scores differently and normalise some characters differently, so
those are always encoded by sentencepiece, and the tokenizer.json beside them serves exports only.

Why byte-pair encoding converts exactly: both libraries merge the neighbours whose join ranks best, the leftmost
first, and inside the characters of a piece the merges before it happen in the same order whatever stands around (see
tiktoken_ranks.py). Pieces with equal scores would be merged in the order of the text, which ranks cannot say; they
are only allowed as runs of one character (Mistral scores each run of spaces -1e9). There longer left parts first
give the same, which the probe tries for every length up to four times the longest run.
"""

import base64
import json
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from data_pipeline.tokenizer.protobuf import Value, fields, float_of, last_values
from data_pipeline.tokenizer.tiktoken_ranks import added_token

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
UNIGRAM, BPE = 1, 2
SPACE = "▁"
"""How sentencepiece spells a space."""


@dataclass(frozen=True)
class Piece:
    """An entry of the vocabulary."""

    text: str
    score: float
    kind: int


@dataclass(frozen=True)
class Model:
    """What matters of a model file."""

    pieces: tuple[Piece, ...]
    algorithm: int
    byte_fallback: bool
    space_after_word: bool
    charsmap: bytes
    """Table of character replacements (NFKC, say); empty: none."""
    puts_a_space: bool
    """True: each text begins as if a space stood before it."""
    drops_spaces: bool
    """True: spaces at the ends go, several in a row become one."""
    escapes_spaces: bool
    eos: str

    def names(self, *kinds: int) -> dict[str, int]:
        """Ids of the pieces of some kinds."""
        return {piece.text: index for index, piece in enumerate(self.pieces) if piece.kind in kinds}

    def special_tokens(self) -> dict[str, int]:
        """Ids of the pieces that stand for no text."""
        return self.names(UNKNOWN, CONTROL, UNUSED)

    @property
    def longest_run(self) -> int:
        """Characters of the longest piece that repeats one character."""
        return max((len(piece.text) for piece in self.pieces if len(set(piece.text)) == 1), default=0)


@lru_cache(maxsize=1)
def parse_model(data: bytes) -> Model:
    """Read a model file. ValueError when it is damaged or something else."""
    pieces: list[Piece] = []
    trainer: dict[int, Value] = {}
    normalizer: dict[int, Value] = {}
    for number, value in fields(data):
        if number == 1:
            pieces.append(_piece(_bytes(value)))
        elif number == 2:
            trainer = last_values(_bytes(value))
        elif number == 3:
            normalizer = last_values(_bytes(value))
    if not pieces:
        raise ValueError("it has no pieces")
    return Model(
        pieces=tuple(pieces),
        algorithm=int(trainer.get(3, UNIGRAM)),
        byte_fallback=bool(trainer.get(35, 0)),
        space_after_word=bool(trainer.get(24, 0)),
        charsmap=_bytes(normalizer.get(2, b"")),
        puts_a_space=bool(normalizer.get(3, 1)),
        drops_spaces=bool(normalizer.get(4, 1)),
        escapes_spaces=bool(normalizer.get(5, 1)),
        eos=_bytes(trainer.get(47, b"</s>")).decode(),
    )


def _bytes(value: Value) -> bytes:
    if isinstance(value, int):
        raise ValueError("a number stands where bytes should")
    return value


def _piece(data: bytes) -> Piece:
    content = last_values(data)
    score = float_of(content[2]) if 2 in content else 0.0
    return Piece(_bytes(content.get(1, b"")).decode(), score, int(content.get(3, NORMAL)))


def is_convertible(model: Model) -> bool:
    """True where the tokenizer.json gives the same ids for each text without a user-defined piece in it."""
    plain = not model.charsmap and not model.drops_spaces and model.escapes_spaces and not model.space_after_word
    if model.algorithm != BPE or not plain or not model.byte_fallback or model.names(UNUSED):
        return False
    vocabulary = {piece.text for piece in model.pieces}
    if not all(vocabulary.issuperset(name) for name in model.names(UNKNOWN, CONTROL, BYTE)):
        return False  # fastokens takes a word with an unknown character for the name that it spells
    longer = [piece for piece in model.pieces if piece.kind == NORMAL and len(piece.text) > 1]
    counts = Counter(piece.score for piece in longer)
    tied = [piece.text for piece in longer if counts[piece.score] > 1]
    runs = {text[0] for text in tied if len(set(text)) == 1}
    others = [piece.text for piece in longer if len(set(piece.text)) > 1]
    return all(len(set(text)) == 1 for text in tied) and not any(c * 2 in text for c in runs for text in others)


def to_json(model: Model) -> bytes:
    """A tokenizer.json with the same ids for most texts, for each text of a convertible model."""
    kinds = (UNKNOWN, CONTROL, USER_DEFINED)
    added = [
        added_token(index, piece.text, special=piece.kind != USER_DEFINED)
        for index, piece in enumerate(model.pieces)
        if piece.kind in kinds
    ]
    strip = [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if model.puts_a_space else []
    spaces = {"type": "Replace", "pattern": {"String": SPACE}, "content": " "}
    decoder = [spaces, *([{"type": "ByteFallback"}] if model.byte_fallback else []), {"type": "Fuse"}, *strip]
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": _normalizers(model)},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoder},
        "model": _bpe(model) if model.algorithm == BPE else _unigram(model),
    }
    return json.dumps(content, ensure_ascii=False).encode()


def _normalizers(model: Model) -> list[dict[str, Any]]:
    """The steps before the pieces, in sentencepiece's order."""
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        steps.append({"type": "Precompiled", "precompiled_charsmap": base64.b64encode(model.charsmap).decode()})
    if model.drops_spaces:
        steps.append({"type": "Replace", "pattern": {"Regex": "^ +| +$"}, "content": ""})
        steps.append({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "})
    if model.puts_a_space:
        steps.append({"type": "Prepend", "prepend": SPACE})
    return [*steps, {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}]


def _bpe(model: Model) -> dict[str, Any]:
    mergeable = {piece.text: piece.score for piece in model.pieces if piece.kind == NORMAL}
    pairs = [
        (score, cut, text)
        for text, score in mergeable.items()
        for cut in range(1, len(text))
        if text[:cut] in mergeable and text[cut:] in mergeable
    ]
    # Better scores first; among equal ones the longer left part, which in a run stands further left.
    pairs.sort(key=lambda pair: pair[:2], reverse=True)
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": next(iter(model.names(UNKNOWN)), None),
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": model.byte_fallback,
        "ignore_merges": False,
        "vocab": {piece.text: index for index, piece in enumerate(model.pieces)},
        "merges": [[text[:cut], text[cut:]] for _, cut, text in pairs],
    }


def _unigram(model: Model) -> dict[str, Any]:
    return {
        "type": "Unigram",
        "unk_id": next(iter(model.names(UNKNOWN).values()), None),
        "vocab": [[piece.text, piece.score] for piece in model.pieces],
        "byte_fallback": model.byte_fallback,
    }
