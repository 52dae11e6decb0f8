"""BERT's samples: two segments, the second of which follows the first or is from elsewhere, with words hidden.

Devlin et al. 2018 (arXiv:1810.04805). A document gives a sample for every seq_len - 3 of its tokens: from the first
sentence that begins there on, as many sentences as fill the sequence, or one sample in ten a shorter length. They are
cut in two between sentences; half of the time the second part is replaced by sentences from another document. What is
too long loses tokens at the beginning or the end of the longer part.

Unlike in the authors' program the sample at an index follows from (seed, index) alone; other documents come up as often
as they have samples, not all equally; and a text without any end of a sentence is cut between words, so that also there
half of the pairs belong together.
"""

from dataclasses import dataclass, fields
from typing import NamedTuple

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.mixture.document_samples import DocumentSamples, Place
from data_pipeline.mixture.draws import uniform
from data_pipeline.mixture.permutation import Permutation
from data_pipeline.mixture.token_tables import TokenTables
from data_pipeline.mixture.word_masking import mask_words
from data_pipeline.shards import ShardSet
from data_pipeline.tokenizer import Tokenizer

SPECIAL_TOKENS = 3
"""[CLS] A [SEP] B [SEP]"""
FOLLOWS, RANDOM = 0, 1
"""Labels of a second segment."""
_SHORTEST = 8


@dataclass(frozen=True)
class PairBatch:
    """Samples as transformers' BertForPreTraining takes them; int64."""

    input_ids: np.ndarray
    """[n, seq_len]: [CLS] A [SEP] B [SEP], filled up with [PAD]."""
    token_type_ids: np.ndarray
    """[n, seq_len]: 1 for B and its [SEP]."""
    attention_mask: np.ndarray
    """[n, seq_len]: 0 for padding."""
    labels: np.ndarray
    """[n, seq_len]: the ids of hidden tokens, -100 elsewhere."""
    next_sentence_label: np.ndarray
    """[n]: 0, B follows A; 1, B is from another document."""


class _Draws(NamedTuple):
    """The random numbers of one sample, each of [0, 1)."""

    short: float
    length: float
    cut: float
    random: float
    other: float
    other_place: float
    front_a: float
    front_b: float


class SentencePairs:
    """Samples of a shard set: the one at an index is a pure function of (seed, index). Holds no state."""

    def __init__(
        self,
        shards: ShardSet,
        tokenizer: Tokenizer,
        seq_len: int,
        seed: int,
        short_rate: float = 0.1,
        mask_rate: float = 0.15,
    ) -> None:
        """Open the samples of a set.

        DataError when another tokenizer made it, the tokenizer lacks a special token of BERT's, or there are not two
        documents to draw from.

        Args:
            shards: the documents.
            tokenizer: what made them.
            seq_len: tokens of a sample.
            seed: seeds the order and every draw.
            short_rate: share of samples that are made shorter, down to two tokens, as texts are in use.
            mask_rate: share of the tokens to predict.
        """
        if tokenizer.digest != shards.manifest.tokenizer_sha256:
            raise DataError(f"{shards.prefix} was made by another tokenizer; give the one that made it.")
        if seq_len < _SHORTEST:
            raise DataError(f"seq_len={seq_len} is too short for pairs of sentences: {_SHORTEST} or more.")
        self.shards, self.seq_len, self.seed = shards, seq_len, seed
        self.short_rate, self.mask_rate = short_rate, mask_rate
        self._room = seq_len - SPECIAL_TOKENS
        if (tokenizer_json := tokenizer.to_json()) is None:
            raise DataError("the tokenizer has no tokenizer.json, from which words and sentences are known.")
        self._tables = TokenTables.of(tokenizer_json)
        self._places = DocumentSamples(shards, self._room)
        self.num_samples = self._places.total
        """Samples in one epoch."""
        if not self.num_samples or self._places[0].samples == self.num_samples:
            raise DataError(f"{shards.prefix} has fewer than two documents with text: no pair can be drawn from two.")

    def sample(self, index: int) -> PairBatch:
        """Return the sample at an index as a batch of one."""
        return self.batch(np.array([index]))

    def batch(self, indices: np.ndarray) -> PairBatch:
        """Return the samples at indices int64 [n], in this order."""
        batch = self._empty(len(indices))
        numbers = self._shuffled(indices)
        draws = uniform(self.seed, "sentence pair", indices[:, None], np.arange(len(_Draws._fields)))
        for n, (number, some) in enumerate(zip(numbers.tolist(), draws.tolist(), strict=True)):
            a, b, label = self._pair(number, _Draws(*some))
            self._fill(batch, n, a, b)
            batch.next_sentence_label[n] = label
        maskable = batch.attention_mask.astype(bool) & ~self._tables.special[batch.input_ids]
        batch.input_ids[:], batch.labels[:] = mask_words(
            batch.input_ids, maskable, self._tables, self.mask_rate, self.seed, indices
        )
        return batch

    def _shuffled(self, indices: np.ndarray) -> np.ndarray:
        """Sample numbers within the set, each epoch under its own permutation."""
        epochs, inside = np.divmod(indices, self.num_samples)
        numbers = np.empty_like(inside)
        for epoch in np.unique(epochs).tolist():
            rows = epochs == epoch
            shuffle = Permutation(self.num_samples, self.seed, self.shards.digest, "sentence pairs", epoch)
            numbers[rows] = shuffle(inside[rows])
        return numbers

    def _pair(self, number: int, draws: _Draws) -> tuple[np.ndarray, np.ndarray, int]:
        """The segments A and B, and the label."""
        target = self._room
        if draws.short < self.short_rate:
            target = 2 + int(draws.length * (self._room - 1))
        place = self._places[number]
        text, ends = self._sentences(place, 0.0, target)
        cut = self._cut(text, ends, draws.cut)
        a, b, label = text[:cut], text[cut:], FOLLOWS
        if draws.random < 0.5 or not len(b):
            b, label = self._elsewhere(place, max(1, target - len(a)), draws), RANDOM
        return *_fit(a, b, self._room, draws), label

    def _sentences(self, place: Place, draw: float, target: int) -> tuple[np.ndarray, np.ndarray]:
        """Sentences of a document, until there are `target` tokens: their ids, and the ends of the sentences in them.

        They begin with a drawn one of those that begin in the sample's stretch of the document, with 0 its first; where
        none does, at a drawn place in it.
        """
        before = min(1, place.offset)
        length = min(place.length - place.offset, 2 * self._room)
        ids = self.shards.read(place.text + place.offset - before, length + before).astype(np.int64)
        ends = self._tables.sentence_ends(ids) - before
        ids, stretch = ids[before:], min(self._room, length)
        starts = ends[ends < stretch] if before else np.append(0, ends[ends < stretch])
        begin = int(starts[int(draw * len(starts))]) if len(starts) else int(draw * stretch)
        ends = np.append(ends[ends > begin], length) - begin
        ends = ends[: int(np.searchsorted(ends, target)) + 1]
        return ids[begin : begin + int(ends[-1])], ends

    def _cut(self, text: np.ndarray, ends: np.ndarray, draw: float) -> int:
        """Where the second segment begins: behind a sentence, else between words, else between tokens."""
        if len(ends) > 1:
            places = ends[:-1]
        else:
            places = np.flatnonzero(self._tables.word_starts(text))[1:]
        if not len(places):
            places = np.arange(1, max(2, len(text)))
        return int(places[int(draw * len(places))])

    def _elsewhere(self, place: Place, target: int, draws: _Draws) -> np.ndarray:
        """Sentences of another document."""
        number = int(draws.other * (self.num_samples - place.samples))
        other = self._places[number + place.samples if number >= place.first_sample else number]
        return self._sentences(other, draws.other_place, target)[0]

    def _empty(self, n: int) -> PairBatch:
        shapes = {field.name: (n, self.seq_len) for field in fields(PairBatch)} | {"next_sentence_label": (n,)}
        batch = PairBatch(**{name: np.zeros(shape, np.int64) for name, shape in shapes.items()})
        batch.input_ids[:] = self._tables.pad
        return batch

    def _fill(self, batch: PairBatch, n: int, a: np.ndarray, b: np.ndarray) -> None:
        """Write a pair into a row."""
        middle, end = len(a) + 1, len(a) + len(b) + 2
        row = batch.input_ids[n]
        row[[0, middle, end]] = self._tables.cls, self._tables.sep, self._tables.sep
        row[1:middle], row[middle + 1 : end] = a, b
        batch.token_type_ids[n, middle + 1 : end + 1] = 1
        batch.attention_mask[n, : end + 1] = 1


def _fit(a: np.ndarray, b: np.ndarray, room: int, draws: _Draws) -> tuple[np.ndarray, np.ndarray]:
    """Shorten the longer segment, then both, until they fit; a drawn part of what goes, goes at the front."""
    length_a = min(len(a), max(room - len(b), -(-room // 2)))
    length_b = min(len(b), room - length_a)
    front_a = int(draws.front_a * (len(a) - length_a + 1))
    front_b = int(draws.front_b * (len(b) - length_b + 1))
    return a[front_a : front_a + length_a], b[front_b : front_b + length_b]
