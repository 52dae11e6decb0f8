"""The shuffle is a bijection at every size, and looks like one drawn at random."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from data_pipeline.mixture.permutation import LARGEST, Permutation

keys = st.integers(0, 2**63)


@settings(deadline=None, max_examples=200)
@given(n=st.integers(1, 3000), key=keys)
@example(n=1, key=0)
@example(n=2, key=0)
@example(n=1025, key=0)
def test_it_is_a_bijection(n: int, key: int):
    permuted = Permutation(n, key)(np.arange(n))
    np.testing.assert_array_equal(np.sort(permuted), np.arange(n))


@settings(deadline=None, max_examples=200)
@given(n=st.integers(1, LARGEST), key=keys, data=st.data())
@example(n=LARGEST, key=1, data=None)
@example(n=2**40 + 1, key=1, data=None)
def test_the_inverse_undoes_it_at_any_size(n: int, key: int, data: st.DataObject | None):
    some = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=20)) if data else [0, n // 2, n - 1]
    permutation = Permutation(n, key)
    there = permutation(np.array(some, np.int64))
    assert there.dtype == np.int64 and there.min() >= 0 and there.max() < n
    np.testing.assert_array_equal(permutation.inverse(there), some)
    np.testing.assert_array_equal(permutation(permutation.inverse(np.array(some, np.int64))), some)


@pytest.mark.parametrize("n", [97, 5992, 2**16, 100_003])
def test_neighbours_do_not_stay_neighbours(n: int):
    """Differences of neighbours, and each half's share of a stretch, are as a random shuffle's (within five sigma)."""
    for key in range(20):
        order = Permutation(n, key)(np.arange(n)).astype(float)
        correlation = np.corrcoef(order[:-1], order[1:])[0, 1]
        assert abs(correlation) < 5 / np.sqrt(n)
        with_position = np.corrcoef(np.arange(n), order)[0, 1]
        assert abs(with_position) < 5 / np.sqrt(n)
        near = np.mean(np.abs(np.diff(order)) <= n / 100)
        assert near < 0.02 + 5 * np.sqrt(0.02 / n)


@pytest.mark.parametrize("n", [3, 5, 40])
def test_of_a_few_each_comes_to_each_place_about_as_often(n: int):
    drawn = 1_500
    orders = np.array([Permutation(n, "few", key)(np.arange(n)) for key in range(drawn)])
    for place in range(n):
        counts = np.bincount(orders[:, place], minlength=n)
        assert np.abs(counts - drawn / n).max() < 5 * np.sqrt(drawn / n)


def test_stretches_are_spread_evenly_over_the_whole():
    """Chi-square of the first 10,000 of a million, in 100 bins."""
    for key in range(20):
        bins = np.bincount(Permutation(10**6, key)(np.arange(10_000)) // 10_000, minlength=100)
        chi_square = ((bins - 100) ** 2 / 100).sum()
        assert 40 < chi_square < 180


def test_any_part_of_the_key_changes_everything():
    n = 10_000
    orders = [Permutation(n, *key)(np.arange(n)) for key in [(1, "a", 0), (2, "a", 0), (1, "b", 0), (1, "a", 1)]]
    for one in range(4):
        for other in range(one):
            assert np.mean(orders[one] == orders[other]) < 0.002


def test_it_never_changes():
    """The order is part of every run: a change here breaks resuming."""
    assert Permutation(1000, 1234, "abc", 0)(np.arange(8)).tolist() == PINNED


PINNED = [900, 500, 136, 951, 367, 563, 48, 894]


@pytest.mark.parametrize("n", [0, -1, LARGEST + 1])
def test_sizes_outside_are_refused(n: int):
    with pytest.raises(ValueError, match="outside"):
        Permutation(n, 0)
