"""Whole-word masking: the shares hold on average, words stay whole, nothing else is touched."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.mixture.token_tables import TokenTables
from data_pipeline.mixture.word_masking import IGNORED, choose_words, mask_words

CLS, SEP, PAD, MASK, VOCAB = 0, 1, 2, 3, 1000
CONTINUES = 700
"""Ids from here on continue a word."""


def tables() -> TokenTables:
    ids = np.arange(VOCAB)
    no = np.zeros(VOCAB, bool)
    return TokenTables(ids < CONTINUES, no, no, no, no, no, no, ids < 4, CLS, SEP, PAD, MASK)


def sequences(n: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows [CLS] ... [SEP] ... [SEP] [PAD] ..., and which tokens are maskable."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(4, VOCAB, (n, width))
    rows[:, 0], rows[:, width // 3], rows[:, width - 9] = CLS, SEP, SEP
    rows[:, width - 8 :] = PAD
    return rows, rows >= 4


def words_of(row: np.ndarray) -> list[list[int]]:
    """Columns of each word, found by going from token to token."""
    words: list[list[int]] = []
    for column, token in enumerate(row.tolist()):
        if token < 4:
            continue
        if token < CONTINUES or column == 0 or row[column - 1] < 4:
            words.append([])
        words[-1].append(column)
    return words


def test_the_shares_are_those_of_the_paper():
    rows, maskable = sequences(600, 512)
    read, labels = mask_words(rows, maskable, tables(), 0.15, 5, np.arange(600))
    chosen = labels != IGNORED
    count = chosen.sum()
    assert abs(count / maskable.sum() - 0.15) < 0.0005, "it varies by less than one word a row"
    np.testing.assert_array_equal(labels[chosen], rows[chosen])
    np.testing.assert_array_equal(read[~chosen], rows[~chosen])
    assert not chosen[~maskable].any()
    for share, expected in (
        (read == MASK, 0.8),
        (read == rows, 0.1 + 0.1 / 996),
        ((read != rows) & (read != MASK), 0.1),
    ):
        assert abs(share[chosen].mean() - expected) < 4 * (expected * (1 - expected) / count) ** 0.5
    others = read[chosen & (read != MASK) & (read != rows)]
    assert others.min() == 4 and len(np.unique(others)) > 900, "any ordinary token, no special one"


def test_words_are_chosen_whole():
    rows, maskable = sequences(100, 300)
    chosen = mask_words(rows, maskable, tables(), 0.15, 5, np.arange(100))[1] != IGNORED
    sizes = set()
    for row, here in zip(rows, chosen, strict=True):
        for word in words_of(row):
            assert len(set(here[word].tolist())) == 1, "a word is hidden whole or not at all"
            sizes.add(len(word))
    assert max(sizes) > 4


def test_long_and_short_words_are_chosen_as_often():
    rows, maskable = sequences(2000, 300)
    chosen = choose_words(tables().word_starts(rows), maskable, 0.15, 1, np.arange(2000))
    hits: dict[int, list[bool]] = {}
    for row, here in zip(rows, chosen, strict=True):
        for word in words_of(row):
            hits.setdefault(len(word), []).append(bool(here[word[0]]))
    for size in (1, 2, 3):
        assert np.mean(hits[size]) == pytest.approx(0.15, abs=0.006)


def test_a_row_is_a_function_of_its_sample():
    rows, maskable = sequences(1, 200)
    rows, maskable = np.tile(rows, (50, 1)), np.tile(maskable, (50, 1))
    samples = np.arange(900, 950)
    read, labels = mask_words(rows, maskable, tables(), 0.15, 5, samples)
    assert len({row.tobytes() for row in labels}) == 50
    order = np.random.default_rng(0).permutation(50)[:13]
    again = mask_words(rows[order], maskable[order], tables(), 0.15, 5, samples[order])
    np.testing.assert_array_equal(again[0], read[order])
    np.testing.assert_array_equal(again[1], labels[order])
    assert (mask_words(rows, maskable, tables(), 0.15, 6, samples)[1] != labels).any(axis=1).all()


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 12).flatmap(
        lambda width: st.lists(
            st.lists(st.sampled_from([CLS, PAD, 5, 6, 800, 801]), min_size=width, max_size=width), max_size=5
        ).map(lambda rows: np.array(rows, np.int64).reshape(-1, width))
    )
)
def test_any_rows_are_taken(rows: np.ndarray):
    maskable = rows >= 4
    read, labels = mask_words(rows, maskable, tables(), 0.15, 5, np.arange(len(rows)))
    chosen = labels != IGNORED
    assert not chosen[~maskable].any()
    np.testing.assert_array_equal(read[~chosen], rows[~chosen])
    for row, here, can in zip(rows, chosen, maskable, strict=True):
        sizes = [len(word) for word in words_of(row) if here[word[0]]]
        assert sum(sizes) == here.sum() < max(1.0, 0.15 * can.sum()) + max(sizes, default=0)
        if can.any() and all(len(word) == 1 for word in words_of(row)):
            assert here.any(), "at least one token where a token is a word"


def test_every_sample_has_something_to_learn():
    """One word of nine tokens among twenty: its size is above the share, and it is taken when nothing else would be."""
    starts = np.zeros((400, 20), bool)
    starts[:, [0, 9, 18]] = True
    chosen = choose_words(starts, np.ones_like(starts), 0.15, 3, np.arange(400))
    assert chosen.any(axis=1).all()
