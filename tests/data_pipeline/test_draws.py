"""Draws are hashes: the same wherever and in whatever company they are made, and evenly spread."""

import hashlib

import numpy as np

from data_pipeline.mixture.draws import below, draw, uniform
from data_pipeline.mixture.fim import FillInTheMiddle
from data_pipeline.mixture.packing import pack


def test_a_draw_does_not_depend_on_its_company():
    together = draw(3, "x", np.arange(50)[:, None], np.arange(7))
    assert together.shape == (50, 7) and together.dtype == np.uint64
    assert draw(3, "x", 20, 5) == together[20, 5]
    np.testing.assert_array_equal(draw(3, "x", np.arange(50)[::-1], 5), together[::-1, 5])


def test_seeds_purposes_and_counters_give_unrelated_draws():
    counters = np.arange(10_000)
    draws = [
        uniform(3, "x", counters),
        uniform(4, "x", counters),
        uniform(3, "y", counters),
        uniform(3, "x", counters, 0),
    ]
    draws += [uniform(3, "x", 0, counters), uniform(3, "x", counters + 2**40), uniform(3, "x", counters, counters)]
    correlations = np.corrcoef(draws) - np.eye(len(draws))
    assert np.abs(correlations).max() < 0.05


def test_draws_are_even():
    counts = np.bincount(below(10, 3, "x", np.arange(100_000)), minlength=10)
    assert len(counts) == 10
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 28, "chi square with 9 degrees of freedom"
    numbers = below(np.array([1, 2, 2**40]), 3, "x", np.arange(3000)[:, None])
    assert (numbers >= 0).all() and (numbers.max(axis=0) == [0, 1, numbers[:, 2].max()]).all()
    values = uniform(3, "x", np.arange(100_000))
    assert 0 <= values.min() < 1e-4 and 1 - 1e-4 < values.max() < 1


def test_what_follows_from_them_never_changes():
    """Windows and what is done to them are part of every run: a change here breaks resuming."""
    lengths = np.arange(5000) * 7919 % 1501
    pieces, counts = pack(lengths, 0, 512)
    rows = np.arange(10, 522)[None] + np.zeros((20, 1), np.int64)
    rows[:, ::100] = 0
    FillInTheMiddle(0.5, 0.5, 1, 2, 3, eos_id=0, seed=42)(rows, np.arange(20))
    parts = (pieces.tobytes(), counts.astype("<i8").tobytes(), rows.astype("<i8").tobytes())
    assert [hashlib.sha256(part).hexdigest()[:16] for part in parts] == PINNED
    assert draw(42, "x", np.arange(3)).tolist() == DRAWN


PINNED = ["8f32d50151fc68a2", "f6d3c1e3df5bd51b", "b00506110f8096ee"]
DRAWN = [4340957110918794764, 8927049929614961515, 11846943716181309576]
