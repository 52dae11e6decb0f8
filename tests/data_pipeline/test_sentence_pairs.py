"""BERT's samples: pairs as in the paper, each a function of (seed, index), from any documents."""

import json
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import models, normalizers, pre_tokenizers

from data_pipeline.errors import DataError
from data_pipeline.mixture import document_samples
from data_pipeline.mixture.document_samples import DocumentSamples
from data_pipeline.mixture.sentence_pairs import FOLLOWS, RANDOM, PairBatch, SentencePairs
from data_pipeline.mixture.token_tables import TokenTables
from data_pipeline.shards import ShardSet
from data_pipeline.tokenizer import Tokenizer
from tests.data_pipeline.conftest import sample_rows
from tests.data_pipeline.token_sets import random_documents, write_set

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
PAD, UNK, CLS, SEP, MASK = range(5)
SEQ_LEN = 64
TEXTS = [row["text"] for row in [*sample_rows("en.jsonl", 40), *sample_rows("zh.jsonl", 20)]]


@pytest.fixture(scope="module")
def word_piece() -> Tokenizer:
    """All characters of the texts and their most frequent words: a trained vocabulary differs from time to time."""
    splitter = pre_tokenizers.BertPreTokenizer()
    words = Counter(word for text in TEXTS for word, _ in splitter.pre_tokenize_str(text.lower()))
    letters = sorted(set("".join(words)))
    frequent = [word for word, _ in sorted(words.items(), key=lambda item: (-item[1], item[0]))]
    tokens = dict.fromkeys([*SPECIAL, *letters, *(f"##{letter}" for letter in letters), *frequent[:500]])
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = HfTokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(strip_accents=False)
    tokenizer.pre_tokenizer = splitter
    tokenizer.add_special_tokens(SPECIAL)
    return Tokenizer(tokenizer.to_str().encode(), {"eos_token": "[SEP]"})


@pytest.fixture(scope="module")
def texts(word_piece: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """Real text."""
    return write_set(tmp_path_factory.mktemp("texts") / "set", word_piece, word_piece.encode_batch(TEXTS), 9000)


@pytest.fixture(scope="module")
def pairs(texts: ShardSet, word_piece: Tokenizer) -> SentencePairs:
    return SentencePairs(texts, word_piece, SEQ_LEN, seed=3)


@pytest.fixture(scope="module")
def many(pairs: SentencePairs) -> PairBatch:
    return pairs.batch(np.arange(6000))


def original(batch: PairBatch) -> np.ndarray:
    """The ids before words were hidden."""
    return np.where(batch.labels == -100, batch.input_ids, batch.labels)


def segments(batch: PairBatch, n: int) -> tuple[list[int], list[int]]:
    """A and B, checked to be where they belong."""
    row, kinds, end = original(batch)[n], batch.token_type_ids[n], int(batch.attention_mask[n].sum())
    assert batch.attention_mask[n].tolist() == [1] * end + [0] * (len(row) - end)
    middle = int(np.flatnonzero(kinds)[0]) - 1
    assert kinds.tolist() == [0] * (middle + 1) + [1] * (end - middle - 1) + [0] * (len(row) - end)
    assert (row[0], row[middle], row[end - 1]) == (CLS, SEP, SEP) and (row[end:] == PAD).all()
    return row[1:middle].tolist(), row[middle + 1 : end - 1].tolist()


def text_of(shards: ShardSet) -> list[list[int]]:
    """Each document without its end."""
    spans = [shards.document_span(n) for n in range(shards.num_documents)]
    return [shards.read(span.first, span.end - span.first - 1).tolist() for span in spans]


def places_of(part: list[int], documents: list[str]) -> set[tuple[int, int]]:
    """(document, place) wherever a run of ids stands; documents as strings of one character an id."""
    wanted = "".join(map(chr, part))
    found = set()
    for number, text in enumerate(documents):
        place = text.find(wanted)
        while place >= 0:
            found.add((number, place))
            place = text.find(wanted, place + 1)
    return found


def test_half_of_the_second_segments_follow_the_first(many: PairBatch, texts: ShardSet):
    assert abs(many.next_sentence_label.mean() - 0.5) < 4 * 0.5 / 6000**0.5
    documents = ["".join(map(chr, text)) for text in text_of(texts)]
    assert max(max(text) for text in text_of(texts)) < 0xD800
    behind = elsewhere = 0
    for n in range(300):
        a, b = segments(many, n)
        from_a, from_b = places_of(a, documents), places_of(b, documents)
        assert from_a and from_b, "segments are stretches of documents"
        if many.next_sentence_label[n] == FOLLOWS:
            # Where tokens were cut away at the seam, the second stands a little further behind.
            behind += any(d == e and 0 <= q - p - len(a) <= SEQ_LEN for d, p in from_a for e, q in from_b)
        else:
            elsewhere += {d for d, _ in from_a} != {e for e, _ in from_b} or len(from_b) > 1
    follows = int((many.next_sentence_label[:300] == FOLLOWS).sum())
    assert behind == follows and elsewhere == 300 - follows


def test_a_tenth_of_the_samples_is_shorter(word_piece: Tokenizer, tmp_path: Path):
    """Where sentences are short and documents long, all others are full."""
    stop, rng = int(word_piece.encode_batch(["."])[0][0]), np.random.default_rng(0)
    text = rng.integers(100, 900, 60_000)
    text[::4] = stop
    shards = write_set(tmp_path / "set", word_piece, np.split(text, 2))
    lengths = SentencePairs(shards, word_piece, 256, seed=1).batch(np.arange(4000)).attention_mask.sum(axis=1)
    assert lengths.max() == 256 and lengths.min() < 16
    # A random second segment may begin where its document ends.
    assert abs((lengths < 250).mean() - 0.1) < 0.025
    assert np.median(lengths[lengths < 250]) == pytest.approx(130, abs=20), "of any length"


def test_segments_are_whole_sentences_until_they_are_too_long(word_piece: Tokenizer, tmp_path: Path):
    stop, rng = int(word_piece.encode_batch(["."])[0][0]), np.random.default_rng(0)
    tables = TokenTables.of(word_piece.to_json() or b"")
    words = np.flatnonzero(~(tables.ends_sentence | tables.may_close | tables.special))
    sentences = [np.append(rng.choice(words, rng.integers(3, 8)), stop) for _ in range(3000)]
    documents = [np.concatenate(sentences[n : n + 30]) for n in range(0, 3000, 30)]
    shards = write_set(tmp_path / "set", word_piece, documents)
    batch = SentencePairs(shards, word_piece, SEQ_LEN, 1, short_rate=0.0).batch(np.arange(1000))
    short = [segments(batch, n) for n in range(1000) if batch.attention_mask[n].sum() < SEQ_LEN]
    # The last sentence of a document may be all there is: then it is cut in two.
    whole = [(a, b) for a, b in short if stop in a]
    assert len(whole) > 150
    for a, b in whole:
        assert a[-1] == stop and b[-1] == stop
        for part in (a, b):
            lengths = np.diff([0, *(n + 1 for n, token in enumerate(part) if token == stop)])
            assert lengths.min() >= 4 and lengths.max() <= 8, "the first sentence of a segment is a whole one"


def test_the_hidden_words(many: PairBatch):
    chosen, row = many.labels != -100, original(many)
    text = many.attention_mask.astype(bool) & ~np.isin(row, [CLS, SEP])
    assert not chosen[~text].any()
    assert abs(chosen.sum() / text.sum() - 0.15) < 0.002
    masked = (many.input_ids == MASK)[chosen].mean()
    assert abs(masked - 0.8) < 0.01


def test_words_are_hidden_whole(many: PairBatch, word_piece: Tokenizer):
    vocabulary = json.loads(word_piece.to_json() or b"")["model"]["vocab"]
    continues = np.zeros(word_piece.vocab_size, bool)
    continues[[index for token, index in vocabulary.items() if token.startswith("##")]] = True
    row, chosen = original(many), many.labels != -100
    joined = continues[row[:, 1:]] & ~np.isin(row[:, :-1], [CLS, SEP])
    assert joined.sum() > 1000
    np.testing.assert_array_equal(chosen[:, 1:][joined], chosen[:, :-1][joined])


def test_a_sample_is_a_function_of_its_index(
    pairs: SentencePairs, many: PairBatch, texts: ShardSet, word_piece: Tokenizer
):
    again = SentencePairs(ShardSet.open(texts.prefix), word_piece, SEQ_LEN, seed=3)
    for indices in (np.array([4711]), np.arange(100, 120)[::-1], np.random.default_rng(0).permutation(6000)[:50]):
        batch = again.batch(indices)
        for field in fields(PairBatch):
            np.testing.assert_array_equal(getattr(batch, field.name), getattr(many, field.name)[indices])
    other = SentencePairs(texts, word_piece, SEQ_LEN, seed=4).batch(np.arange(100))
    assert (other.input_ids != many.input_ids[:100]).any(axis=1).all()
    one = pairs.sample(17)
    assert one.input_ids.shape == (1, SEQ_LEN) and (one.input_ids == many.input_ids[17]).all()


def test_an_epoch_begins_at_every_place_once_and_reads_all(word_piece: Tokenizer, tmp_path: Path):
    """In documents whose tokens tell their places, but for the ends of sentences."""
    stop, rng = int(word_piece.encode_batch(["."])[0][0]), np.random.default_rng(0)
    documents = [np.arange(100, 100 + length) for length in (700, 61, 62, 1, 300, 30)]
    for text in documents[:3]:
        text[rng.integers(1, len(text), len(text) // 12)] = stop
    pairs = SentencePairs(write_set(tmp_path / "set", word_piece, documents), word_piece, SEQ_LEN, 3)
    assert pairs.num_samples == sum(-(-len(text) // (SEQ_LEN - 3)) for text in documents)
    for epoch in range(2):
        numbers = pairs._shuffled(np.arange(epoch * pairs.num_samples, (epoch + 1) * pairs.num_samples))
        np.testing.assert_array_equal(np.sort(numbers), np.arange(pairs.num_samples))
    read = set()
    for number in range(pairs.num_samples):
        place = pairs._places[number]
        ids, _ = pairs._sentences(place, 0.0, SEQ_LEN - 3)
        begin = int(ids.max()) - int(np.argmax(ids)) - 100
        read |= set(range(place.text + begin, place.text + begin + len(ids)))
    assert len(read) == sum(map(len, documents)), "samples that are not shorter cover all text in an epoch"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    documents=st.lists(
        st.lists(st.sampled_from([UNK, CLS, SEP, MASK, 20, 21, 1999, -1]), max_size=40), min_size=2, max_size=6
    ),
    seq_len=st.sampled_from([8, 9, 16, 33]),
)
def test_any_documents_give_samples_or_a_sentence(
    documents: list[list[int]], seq_len: int, word_piece: Tokenizer, tmp_path: Path
):
    """Empty ones, of one token, without the end of any sentence, with many, of special tokens alone; -1 is a stop."""
    stop = int(word_piece.encode_batch(["."])[0][0])
    ids = [np.array([stop if token == -1 else token for token in text], np.int64) for text in documents]
    shards = write_set(tmp_path / "set", word_piece, ids)
    if sum(bool(len(text)) for text in ids) < 2:
        with pytest.raises(DataError, match="fewer than two documents"):
            SentencePairs(shards, word_piece, seq_len, seed=1)
        return
    batch = SentencePairs(shards, word_piece, seq_len, seed=1).batch(np.arange(40))
    for n in range(40):
        row, kinds, end = original(batch)[n], batch.token_type_ids[n], int(batch.attention_mask[n].sum())
        middle = int(np.flatnonzero(kinds)[0]) - 1
        assert 2 <= middle < end - 2 and (row[0], row[middle], row[end - 1]) == (CLS, SEP, SEP), "neither part is empty"
    assert not np.isin(batch.labels, [CLS, SEP, PAD, MASK]).any()


def test_documents_without_the_end_of_a_sentence_still_pair(word_piece: Tokenizer, tmp_path: Path):
    """Otherwise every second segment would be a random one, as in the authors' program."""
    shards = write_set(tmp_path / "set", word_piece, [np.arange(100, 400), np.arange(500, 900), np.arange(1000, 1050)])
    batch = SentencePairs(shards, word_piece, SEQ_LEN, seed=1).batch(np.arange(2000))
    assert abs(batch.next_sentence_label.mean() - 0.5) < 4 * 0.5 / 2000**0.5


def test_where_a_sample_begins_is_found_as_by_counting(
    word_piece: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(document_samples, "_BLOCK", 8)
    lengths = [*np.random.default_rng(0).integers(0, 60, 100).tolist(), 0, 0, 500]
    shards = write_set(tmp_path / "set", word_piece, random_documents(lengths, 1000), tokens_per_shard=700)
    samples = DocumentSamples(shards, 13)
    expected = []
    for number, length in enumerate(lengths):
        count = -(-length // 13)
        first = len(expected)
        offsets = [n * (length - 13) // max(1, count - 1) if count > 1 else 0 for n in range(count)]
        assert np.diff([*offsets, length]).max(initial=0) <= 13, "no token is left out"
        expected += [(shards.document_span(number).first, length, offset, first, count) for offset in offsets]
    assert samples.total == len(expected)
    assert [tuple(samples[n]) for n in range(samples.total)] == expected


def test_what_does_not_belong_together_is_refused(texts: ShardSet, word_piece: Tokenizer, tokenizer: Tokenizer):
    with pytest.raises(DataError, match="was made by another tokenizer"):
        SentencePairs(texts, tokenizer, SEQ_LEN, 1)
    with pytest.raises(DataError, match="too short for pairs"):
        SentencePairs(texts, word_piece, 7, 1)


@pytest.mark.slow
def test_transformers_takes_the_samples(many: PairBatch):
    """BertForPreTraining gives a finite loss from them. Importing it is slow: run with `pytest -m slow`."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=10_000, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    batch = {field.name: torch.from_numpy(getattr(many, field.name)[:8]) for field in fields(PairBatch)}
    assert torch.isfinite(transformers.BertForPreTraining(config)(**batch).loss)


def test_the_labels_are_transformers_labels():
    assert (FOLLOWS, RANDOM) == (0, 1)
