"""The blend keeps the weights at every moment, each source in order, and knows its way back."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.mixture.blend import PERIOD, Blend, quotas

weights = st.lists(st.floats(1e-9, 1e9), min_size=1, max_size=20)
moments = st.integers(0, 3 * PERIOD) | st.integers(2**50, 2**62 - 500)


@settings(deadline=None)
@given(weights=weights)
def test_quotas_sum_and_are_near_their_weights(weights: list[float]):
    result = quotas(weights)
    assert sum(result) == PERIOD and min(result) >= 1
    exact = np.array(weights) / np.sum(weights) * PERIOD
    assert np.abs(result - exact).max() <= len(weights) + 1


def test_only_proportions_count():
    assert quotas([1, 2, 5]) == quotas([0.1, 0.2, 0.5]) or np.allclose(
        quotas([1, 2, 5]), quotas([0.1, 0.2, 0.5]), atol=1
    )
    assert quotas([1, 2, 5]) == quotas([2, 4, 10])


@settings(deadline=None, max_examples=50)
@given(weights=weights, first=moments)
def test_the_way_back(weights: list[float], first: int):
    blend = Blend(weights)
    samples = np.arange(first, first + 500)
    sources, positions = blend(samples)
    for source in set(sources.tolist()):
        mine = sources == source
        np.testing.assert_array_equal(blend.inverse(source, positions[mine]), samples[mine])


@settings(deadline=None, max_examples=50)
@given(weights=weights, first=moments)
def test_each_source_comes_in_order_without_gaps(weights: list[float], first: int):
    blend = Blend(weights)
    sources, positions = blend(np.arange(first, first + 500))
    before = blend.counts(first)
    for source in range(len(weights)):
        mine = positions[sources == source]
        np.testing.assert_array_equal(mine, before[source] + np.arange(len(mine)))
    assert blend.counts(first + 500) == [b + int((sources == k).sum()) for k, b in enumerate(before)]


@settings(deadline=None, max_examples=50)
@given(weights=weights, samples=moments)
def test_the_share_of_each_source_is_right_at_every_moment(weights: list[float], samples: int):
    blend = Blend(weights)
    exact = [Fraction(samples * quota, PERIOD) for quota in blend.quotas]
    assert (
        max(abs(count - share) for count, share in zip(blend.counts(samples), exact, strict=True))
        <= 1 + np.log2(len(weights)) + 1e-3
    )


@pytest.mark.parametrize("bad", [[], [0.0], [1.0, -1.0]])
def test_bad_weights_are_refused(bad: list[float]):
    with pytest.raises(ValueError, match="positive"):
        quotas(bad)
