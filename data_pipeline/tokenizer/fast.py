"""The fast encoder under the eyes of the reference: compared on hostile texts at the start and on a sample all along.

The sample is a function of the text alone (about one stretch of 1,024 characters in each 2^19 ids), so whether a
corpus meets a difference does not depend on batches, workers or restarts. What went through the fast encoder before
a difference is noticed cannot be trusted any more: `FastEncoderDiffers` says so, and whoever keeps ids makes them
again with the reference (`Tokenizer.load(path)`, without `fast`); `with_fallback` is the way for work in one
process.
"""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.tokenizer.encoders import Encoder, FastEncoder, Flat
from data_pipeline.tokenizer.probe import probe_texts

SAMPLED_CHARACTERS = 1024
"""Longest stretch of a text that is compared."""
IDS_FOR_EACH_SAMPLE = 1 << 19
"""Ids of text for each one that is compared, on average."""
_KNOWN = ("'ſ",)
"""What fastokens 0.3.5 is known to encode otherwise: o200k's pattern ignores case, and ſ is a small s."""
_MIX = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
"""Shifts and factors of splitmix64 (Steele, Lea, Flood 2014)."""
T = TypeVar("T")


class FastEncoderDiffers(DataError):
    """The fast encoder gave other ids than the reference: whatever it helped to make must be made without it."""


class CheckedEncoder:
    """A fast encoder that is compared with the reference while it works."""

    def __init__(self, fast: Encoder, reference: Encoder) -> None:
        """Watch over `fast`."""
        self._fast, self._reference = fast, reference
        self.name = fast.name

    def encode(self, texts: Sequence[str]) -> Flat:
        """Encode with the fast encoder. FastEncoderDiffers when it fails or differs on one of the sample."""
        try:
            flat = self._fast.encode(texts)
        except BaseException as error:
            _reraise_own(error)
            raise FastEncoderDiffers(
                f"{self._fast.name} failed ({error}); make everything again without it."
            ) from error
        for index, key in _sampled(flat):
            stretch = _stretch(texts[index], key)
            problem = difference(self._fast, self._reference, [stretch])
            if problem:
                raise FastEncoderDiffers(
                    f"{problem}. What it encoded before this is not to be trusted: make it again with the reference."
                )
        return flat


class Apart:
    """A fast encoder that leaves the texts with certain words in them to the reference."""

    def __init__(self, fast: Encoder, reference: Encoder, words: Sequence[str]) -> None:
        """`words`: what is looked for; that several begin alike makes it quick."""
        self._fast, self._reference, self._words = fast, reference, words
        self._marks = sorted({_mark(word) for word in words})
        self.name = fast.name

    def encode(self, texts: Sequence[str]) -> Flat:
        """Encode each text with the one or the other."""
        maybe = {number for mark in self._marks for number, text in enumerate(texts) if mark in text}
        apart = [number for number in sorted(maybe) if any(word in texts[number] for word in self._words)]
        if not apart:
            return self._fast.encode(texts)
        rest = sorted({*range(len(texts))} - {*apart})
        order = np.argsort(np.array(rest + apart, np.int64))
        parts = self._fast.encode([texts[i] for i in rest]).split()
        parts += self._reference.encode([texts[i] for i in apart]).split()
        parts = [parts[place] for place in order]
        return Flat(np.concatenate(parts), np.array([len(part) for part in parts], np.int64))


def _mark(word: str) -> str:
    """A part of the word that Python finds fast: one character that is not in Latin-1 is searched for ten times as
    fast as a string with it."""
    character = max(word)
    return character if character > "\xff" else word[:4]


def watched(
    tokenizer_json: bytes, reference: Encoder, special: Iterable[str], runs: int = 0, apart: Sequence[str] = ()
) -> tuple[Encoder, str]:
    """The fast encoder under watch, or the reference and the reason in a sentence.

    `special`: tokens whose names are tried as text; `runs`: lengths up to which runs of a character are tried;
    `apart`: texts with one of these in them go to the reference.
    """
    try:
        fast = Apart(FastEncoder(tokenizer_json), reference, [*_KNOWN, *apart])
        problem = difference(fast, reference, probe_texts(special, runs))
    except BaseException as error:
        _reraise_own(error)
        problem = f"fastokens cannot use this tokenizer ({error})"
    if problem:
        return reference, f"{problem}; all texts are encoded by {reference.name}, at some MB a second."
    return CheckedEncoder(fast, reference), ""


def _reraise_own(error: BaseException) -> None:
    """Rust's panics come as BaseException; let those pass that have nothing to do with it."""
    if isinstance(error, (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError)):
        raise error


def with_fallback(work: Callable[[bool], T]) -> T:
    """Call `work(True)`, to use the fast encoder; when that differs, say so and call `work(False)`."""
    try:
        return work(True)
    except FastEncoderDiffers as problem:
        print(f"warning: {problem} Beginning again with the reference encoder.", file=sys.stderr, flush=True)
        return work(False)


def difference(fast: Encoder, reference: Encoder, texts: Sequence[str]) -> str:
    """Say in a sentence at which text the encoders first differ; empty when they agree on all."""
    for text, ours, theirs in _differing(fast, reference, texts):
        words = [f" {word}" for word in text.split()]
        word, ours, theirs = next(iter(_differing(fast, reference, words)), (text, ours, theirs))
        at = _first_difference(ours, theirs)
        return (
            f"{fast.name} encodes {_quote(word)} otherwise than {reference.name}: from id {at} on "
            f"{ours[at : at + 4].tolist()} instead of {theirs[at : at + 4].tolist()}"
        )
    return ""


def _differing(fast: Encoder, reference: Encoder, texts: Sequence[str]) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    found, expected = fast.encode(texts).split(), reference.encode(texts).split()
    for text, ours, theirs in zip(texts, found, expected, strict=True):
        if not np.array_equal(ours, theirs):
            yield text, ours, theirs


def _sampled(flat: Flat) -> list[tuple[int, int]]:
    """Index and key of the texts to compare: longer ones are likelier, and the ids decide."""
    chosen = np.flatnonzero(flat.lengths)
    if not len(chosen):
        return []
    lengths = flat.lengths[chosen].astype(np.uint64)
    starts = np.cumsum(flat.lengths)[chosen] - flat.lengths[chosen]
    keys = np.add.reduceat(flat.ids, starts, dtype=np.uint64) + (lengths << np.uint64(40))
    for shift, factor in _MIX:
        keys = (keys ^ (keys >> np.uint64(shift))) * np.uint64(factor)
    keys >>= np.uint64(32)
    of_sample = keys < lengths * np.uint64((1 << 32) // IDS_FOR_EACH_SAMPLE)
    return list(zip(chosen[of_sample].tolist(), keys[of_sample].tolist(), strict=True))


def _stretch(text: str, key: int) -> str:
    """A part of the text, somewhere."""
    start = key % max(1, len(text) - SAMPLED_CHARACTERS)
    return text[start : start + SAMPLED_CHARACTERS]


def _first_difference(one: np.ndarray, other: np.ndarray) -> int:
    shorter = min(len(one), len(other))
    unequal = np.flatnonzero(one[:shorter] != other[:shorter])
    return int(unequal[0]) if len(unequal) else shorter


def _quote(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:57] + "...")
