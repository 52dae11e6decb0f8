"""Shingles are those of the units, a document's hashes are its own, and equal hashes mean what theory says."""

import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.dedup.minhash import _factors, _minima, band_hashes
from data_pipeline.dedup.settings import NearDuplicates
from data_pipeline.dedup.shingles import batches, shingle_hashes, units_of
from tests.data_pipeline.dedup.planted import near_copy, random_words
from tests.data_pipeline.dedup.stages import similarity, words_shingles

texts = st.lists(st.text(st.sampled_from("ab \nÄé\u0301,漢字ｶ\u0e01\u200d\ud800"), max_size=30), max_size=8)


SAME_BITS = [
    ["3bb7411f4b590e0a", "431e1971f7ecf3fb"],
    ["29234c500c320e53", "94f672d6efa3d1d0"],
    ["914ccf483894ebcd", "ec244eaaa62fd963"],
    ["e45585eef567e50a", "e45585eef567e50a"],
]


def numbered(hashes: np.ndarray, known: dict[int, int]) -> list[int]:
    return [known.setdefault(value, len(known)) for value in hashes.tolist()]


@settings(deadline=None, max_examples=200)
@given(
    words=st.lists(st.lists(st.sampled_from(["a", "b", "cd", "A"]), max_size=8), max_size=6), ngram=st.integers(1, 9)
)
def test_shingles_are_equal_exactly_where_their_units_are(words: list[list[str]], ngram: int):
    hashes, bounds = shingle_hashes([" ".join(each) for each in words], ngram)
    assert len(bounds) == len(words) + 1 and bounds[-1] == len(hashes)
    found, wanted = {}, {}
    for each, begin, end in zip(words, bounds[:-1], bounds[1:], strict=True):
        folded = [word.casefold() for word in each]
        runs = [tuple(folded[i : i + ngram]) for i in range(max(1, len(each) - ngram + 1)) if each]
        numbers = numbered(hashes[begin:end], found)
        assert numbers == [wanted.setdefault(run, len(wanted)) for run in runs]


def test_many_shingles_do_not_collide():
    """All sequences of seven of four words: their hashes differ, and so do the upper halves as often as random ones."""
    words = np.array(["a", "b", "c", "d"])
    sequences = [" ".join(words[[number >> 2 * i & 3 for i in range(7)]]) for number in range(4**7)]
    hashes, _ = shingle_hashes(sequences, 7)
    assert len(np.unique(hashes)) == 4**7
    # 2^28 / 2 pairs among 2^32: 0.03 collisions are to be expected.
    assert len(np.unique(hashes >> np.uint64(32))) >= 4**7 - 2


@settings(deadline=None, max_examples=300)
@given(texts=texts, window=st.integers(1, 40))
def test_units_do_not_depend_on_the_window(texts: list[str], window: int):
    whole, bounds = units_of(texts)
    pieces, piece_bounds = units_of(texts, window)
    np.testing.assert_array_equal(pieces, whole)
    np.testing.assert_array_equal(piece_bounds, bounds)


@settings(deadline=None, max_examples=200)
@given(texts=texts, ngram=st.integers(1, 4))
def test_a_document_has_the_same_hashes_in_any_company(texts: list[str], ngram: int):
    near = NearDuplicates(ngram=ngram, bands=3, rows=2)
    together = band_hashes(texts, near)
    assert together.shape == (len(texts), 3) and together.dtype == np.uint64
    for text, row in zip(texts, together, strict=True):
        np.testing.assert_array_equal(band_hashes([text], near)[0], row)


def test_a_document_larger_than_a_batch_is_hashed_like_its_parts():
    """Of 300,000 shingles, in several pieces, the least product is the least of all, and neighbours are undisturbed."""
    generator = np.random.default_rng(3)
    long = " ".join(random_words(generator, 300_000))
    near = NearDuplicates(bands=2, rows=3)
    texts = ["before it", long, "behind it", ""]
    shingles, bounds = shingle_hashes([long], near.ngram)
    factors = _factors(6, near.seed)
    products = (shingles >> np.uint64(32)).astype(np.uint32)[None] * factors[:, None]
    np.testing.assert_array_equal(_minima(shingles, bounds, factors)[:, 0], products.min(axis=1))
    np.testing.assert_array_equal(band_hashes(texts, near), np.concatenate([band_hashes([t], near) for t in texts]))


def test_the_same_bits_everywhere():
    """Other numbers would part documents hashed by an older version, or on another machine, from these."""
    near = NearDuplicates(ngram=2, bands=2, rows=2)
    found = band_hashes(["The quick brown fox", "春眠不覺曉，處處聞啼鳥", "one", ""], near)
    assert [[f"{value:016x}" for value in row] for row in found.tolist()] == SAME_BITS


def test_what_is_normalised_away_makes_no_difference():
    near = NearDuplicates()
    plain = "Der Straßenbau im Café ist über alle Maßen schön"
    for variant in (plain.upper(), unicodedata.normalize("NFD", plain), plain.replace(" ", ",\n ") + "."):
        np.testing.assert_array_equal(band_hashes([variant], near), band_hashes([plain], near))
    assert (band_hashes([plain + " doch"], near) != band_hashes([plain], near)).any()


def test_the_seed_changes_every_band():
    text = " ".join(random_words(np.random.default_rng(1), 100))
    one, other = (band_hashes([text], NearDuplicates(seed=seed)) for seed in (1, 2))
    assert (one != other).all()


@pytest.mark.parametrize("words", [30, 100, 1000])
@pytest.mark.parametrize("jaccard", [0.6, 0.8, 0.9])
def test_the_share_of_equal_hashes_estimates_the_similarity(words: int, jaccard: float):
    """Over pairs: unbiased within 4 standard errors, and spread no more than independent hashes would be (+10%)."""
    generator = np.random.default_rng(words)
    pairs, hashes = 400, 112
    documents = [random_words(generator, words) for _ in range(pairs)]
    copies = [near_copy(each, jaccard, 5, generator) for each in documents]
    joined = [" ".join(each) for each in documents + copies]
    found, bounds = shingle_hashes(joined, 5)
    minima = _minima(found, bounds, _factors(hashes, 1))
    agree = (minima[:, :pairs] == minima[:, pairs:]).mean(axis=0)
    exact = similarity(words_shingles(joined[0], 5), words_shingles(joined[pairs], 5))
    ideal = np.sqrt(exact * (1 - exact) / hashes)
    assert abs(agree.mean() - exact) < 4 * ideal / np.sqrt(pairs)
    assert agree.std() < 1.1 * ideal


@pytest.mark.parametrize("jaccard", [0.7, 0.8, 0.9])
def test_candidates_are_found_as_often_as_theory_says(jaccard: float):
    """1 - (1 - s^rows)^bands, within 4 standard errors of 2,000 pairs."""
    generator = np.random.default_rng(11)
    near, pairs = NearDuplicates(), 2000
    documents = [random_words(generator, 104) for _ in range(pairs)]
    copies = [" ".join(near_copy(each, jaccard, 5, generator)) for each in documents]
    originals = [" ".join(each) for each in documents]
    exact = similarity(words_shingles(originals[0], 5), words_shingles(copies[0], 5))
    found = (band_hashes(originals, near) == band_hashes(copies, near)).any(axis=1).mean()
    theory = 1 - (1 - exact**near.rows) ** near.bands
    assert abs(found - theory) < 4 * np.sqrt(theory * (1 - theory) / pairs) + 1e-3


def test_batches_keep_the_order_and_their_size():
    items = ["a" * size for size in (3, 0, 20, 1, 1, 1, 9, 0)]
    grouped = list(batches(items, len, 10))
    assert [item for group in grouped for item in group] == items
    assert all(len(group) == 1 or sum(map(len, group)) <= 10 for group in grouped) and len(grouped) < len(items)
    assert list(batches([], len)) == []
