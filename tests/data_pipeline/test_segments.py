"""Mixtures that change: closed form, equal to a walk sample by sample, and no change repeats or skips any data."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.errors import DataError
from data_pipeline.mixture import Loader, Mixture, Segment, samples_digest
from data_pipeline.mixture.blend import PERIOD, quotas
from data_pipeline.mixture.permutation import Permutation
from data_pipeline.mixture.segments import Segments
from data_pipeline.shards import ShardSet
from data_pipeline.shards.manifest import FileRecord, Manifest, ShardRecord

SEQ_LEN, SEED = 10, 99


def pretend(name: str, windows: int) -> ShardSet:
    """A shard set of so many windows, of which only the manifest exists."""
    tokens = windows * SEQ_LEN + 1
    none = FileRecord(name="none", size=0, sha256="")
    manifest = Manifest(
        dtype="uint16", vocab_size=300, tokenizer_sha256="0" * 64, eos_id=0, num_documents=1, num_tokens=tokens,
        num_eos_tokens=1, num_empty_documents=0, text_bytes=0, text_field="text", id_field="id", sources=[],
        shards=[ShardRecord(num_documents=1, num_tokens=tokens, bin=none, idx=none, documents=none)],
        content_sha256=name * 64,
    )  # fmt: skip
    return ShardSet(Path(name), manifest)


WINDOWS = {"a": 7, "b": 40, "c": 1, "d": 300}
SETS = [pretend(name, windows) for name, windows in WINDOWS.items()]

segment_lists = st.lists(
    st.tuples(st.integers(0, 60), st.lists(st.sampled_from([0, 0, 1, 2.5, 1e-9, 1e9]), min_size=4, max_size=4)),
    min_size=1,
    max_size=6,
).map(
    lambda drawn: [
        Segment(int(first), weights if any(weights) else [1, 0, 0, 0])
        for first, (_, weights) in zip(np.cumsum([0, *(length for length, _ in drawn[1:])]), drawn, strict=True)
    ]
)
"""From sample 0 on; some are empty because the next begins at the same sample."""


def build(segments: list[Segment]) -> Mixture:
    base, *later = segments
    return Mixture(list(zip(SETS, base.weights, strict=True)), SEQ_LEN, SEED, later)


def walk(segments: list[Segment], count: int) -> list[tuple[str, int]]:
    """(name of the source, window) of each sample, by counting up from the first one; nothing is closed form here."""
    drawn = dict.fromkeys(WINDOWS, 0)
    samples = []
    for number, segment in enumerate(segments):
        end = segments[number + 1].first if number + 1 < len(segments) else count
        names = [name for name, weight in zip(WINDOWS, segment.weights, strict=True) if weight]
        # Sources are numbered by their first use, those of one segment by digest; the tree follows the numbers.
        names.sort(key=lambda name: first_use(segments, name))
        shares = dict(zip(names, quotas([segment.weights[list(WINDOWS).index(name)] for name in names]), strict=True))
        arrivals: dict[tuple[str, ...], int] = {}
        for _ in range(segment.first, min(end, count)):
            name = descend(names, shares, arrivals)
            epoch, inside = divmod(drawn[name], WINDOWS[name])
            shuffle = Permutation(WINDOWS[name], SEED, name * 64, epoch)
            samples.append((name, int(shuffle(np.array([inside]))[0])))
            drawn[name] += 1
    return samples


def first_use(segments: list[Segment], name: str) -> tuple[int, str]:
    number = list(WINDOWS).index(name)
    used = [
        k
        for k, segment in enumerate(segments)
        if segment.weights[number] and (k + 1 == len(segments) or segments[k + 1].first > segment.first)
    ]
    return (used[0] if used else len(segments), name)


def descend(names: list[str], shares: dict[str, int], arrivals: dict[tuple[str, ...], int]) -> str:
    """One more arrival at the node of these sources: down to a leaf."""
    if len(names) == 1:
        return names[0]
    left, right = names[: len(names) // 2], names[len(names) // 2 :]
    before = arrivals.get(tuple(names), 0)
    arrivals[tuple(names)] = before + 1
    quota, total = (sum(shares[name] for name in some) for some in (left, names))
    goes_left = (before + 1) * quota // total > before * quota // total
    return descend(left if goes_left else right, shares, arrivals)


def named(mixture: Mixture, samples: np.ndarray) -> list[tuple[str, int]]:
    return [(str(mixture.sources[source].prefix), window) for source, window in samples.tolist()]


@settings(deadline=None, max_examples=60)
@given(segments=segment_lists, more=st.integers(0, 100))
def test_it_is_a_walk_sample_by_sample(segments: list[Segment], more: int):
    count = segments[-1].first + more
    mixture = build(segments)
    assert named(mixture, mixture.samples(0, count)) == walk(segments, count)


@settings(deadline=None, max_examples=60)
@given(segments=segment_lists, more=st.integers(1, 200), cut=st.floats(0, 1))
def test_any_stretch_is_a_part_of_the_whole(segments: list[Segment], more: int, cut: float):
    count = segments[-1].first + more
    mixture = build(segments)
    first = int(cut * count)
    np.testing.assert_array_equal(mixture.samples(first, count - first), mixture.samples(0, count)[first:])


@settings(deadline=None, max_examples=60)
@given(segments=segment_lists, more=st.integers(0, 200))
def test_each_source_is_its_own_sequence_through_all_changes(segments: list[Segment], more: int):
    count = segments[-1].first + more
    mixture = build(segments)
    samples = mixture.samples(0, count)
    for source, shards in enumerate(mixture.sources):
        mine = samples[samples[:, 0] == source, 1]
        alone = Mixture([(shards, 1)], SEQ_LEN, SEED).samples(0, len(mine))[:, 1]
        np.testing.assert_array_equal(mine, alone)
    assert mixture.segments.counts(count) == [int((samples[:, 0] == s).sum()) for s in range(len(mixture.sources))]


@settings(deadline=None, max_examples=60)
@given(segments=segment_lists, appended=segment_lists, more=st.integers(0, 100))
def test_what_is_appended_changes_nothing_before_it(segments: list[Segment], appended: list[Segment], more: int):
    start = segments[-1].first + more
    longer = [*segments, *(Segment(start + segment.first, segment.weights) for segment in appended)]
    ours, theirs = build(longer).samples(0, start), build(segments).samples(0, start)
    assert samples_digest(ours) == samples_digest(theirs)  # with the numbers of the sources
    assert named(build(longer), ours) == named(build(segments), theirs)


@settings(deadline=None, max_examples=40)
@given(segments=segment_lists, more=st.integers(0, 300))
def test_the_way_back(segments: list[Segment], more: int):
    limit = segments[-1].first + more
    mixture = build(segments)
    samples = mixture.samples(0, limit)
    for source in range(len(mixture.sources)):
        for window in {0, mixture.num_windows[source] // 2, mixture.num_windows[source] - 1}:
            expected = np.flatnonzero((samples[:, 0] == source) & (samples[:, 1] == window)).tolist()
            assert mixture.indices_of(source, window, limit) == expected


far = st.integers(2**40, 2**61)


@settings(deadline=None, max_examples=40)
@given(firsts=st.lists(far, min_size=1, max_size=4, unique=True), where=far)
def test_far_out_it_is_exact(firsts: list[int], where: int):
    """No walk comes so far, but counting, drawing and the way back must agree with each other."""
    chances = np.random.default_rng(firsts)
    parts = {first: dict(enumerate(chances.uniform(0.1, 1, 3).tolist())) for first in [0, *sorted(firsts)]}
    segments = Segments(parts, 3)
    samples = np.arange(where, where + 100)
    sources, positions = segments(samples)
    for source in range(3):
        mine = positions[sources == source]
        np.testing.assert_array_equal(mine, segments.counts(where)[source] + np.arange(len(mine)))
        np.testing.assert_array_equal(segments.inverse(source, mine), samples[sources == source])


def test_a_position_that_is_never_drawn_has_no_way_back():
    segments = Segments({0: {0: 1, 1: 1}, 10: {1: 1}}, 2)
    assert segments.inverse(0, np.arange(6)).tolist() == [*segments.inverse(0, np.arange(5)).tolist(), -1]


def test_one_segment_is_the_blend_that_it_always_was():
    """Written down before there were segments: configurations without them must keep their order for ever."""
    mixture = Mixture(list(zip(SETS, (3, 0.25, 1, 2), strict=True)), SEQ_LEN, SEED)
    assert samples_digest(mixture.samples(10**9, 5000)) == ONE_SEGMENT
    from_zero = Mixture(list(zip(SETS, (1, 1, 1, 1), strict=True)), SEQ_LEN, SEED, [Segment(0, (3, 0.25, 1, 2))])
    assert samples_digest(from_zero.samples(10**9, 5000)) == ONE_SEGMENT


def test_the_order_of_segments_never_changes():
    changes = [Segment(1000, (0, 1, 0, 5)), Segment(1500, (1, 1, 1, 0))]
    mixture = Mixture(list(zip(SETS, (3, 0.25, 0, 2), strict=True)), SEQ_LEN, SEED, changes)
    assert [str(shards.prefix) for shards in mixture.sources] == ["a", "b", "d", "c"]
    assert samples_digest(mixture.samples(0, 3000)) == THREE_SEGMENTS


ONE_SEGMENT = "a6c0856531f0370b"
THREE_SEGMENTS = "2fc4512bddf73956"


def test_dropping_and_bringing_back_a_source():
    changes = [Segment(100, (0, 1, 0, 1)), Segment(300, (1, 1, 0, 0))]
    mixture = Mixture(list(zip(SETS, (1, 1, 0, 0), strict=True)), SEQ_LEN, SEED, changes)
    samples = named(mixture, mixture.samples(0, 400))
    assert "a" not in [name for name, _ in samples[100:300]]
    mine = [window for name, window in samples if name == "a"]
    for epoch in range(len(mine) // 7):
        assert sorted(mine[epoch * 7 : epoch * 7 + 7]) == list(range(7))


def test_a_source_that_nothing_draws_is_no_part_of_it():
    mixture = Mixture([(SETS[0], 1), (SETS[1], 0)], SEQ_LEN, SEED)
    assert [shards.prefix for shards in mixture.sources] == [Path("a")]
    alone = Mixture([(SETS[0], 1)], SEQ_LEN, SEED)
    assert samples_digest(mixture.samples(0, 100)) == samples_digest(alone.samples(0, 100))


@pytest.mark.parametrize(
    ("weights", "segments", "message"),
    [
        ((0, 0), [], "no source has a weight above 0 from sample 0"),
        ((1, 1), [Segment(5, (0, 0))], "no source has a weight above 0 from sample 5"),
        ((1, 1), [Segment(9, (1, 0)), Segment(5, (0, 1))], "behind one that begins later"),
        ((1, -1), [], "below 0"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(weights: tuple[float, float], segments: list[Segment], message: str):
    with pytest.raises(DataError, match=message):
        Mixture(list(zip(SETS[:2], weights, strict=True)), SEQ_LEN, SEED, segments)


def seconds(action: Callable[[], object]) -> float:
    """The fastest of five."""
    times = []
    for _ in range(5):
        start = time.perf_counter()
        action()
        times.append(time.perf_counter() - start)
    return min(times)


def test_a_hundred_segments_far_out_cost_no_walk():
    """10^13 tokens, a hundred changes: opening and the first batch are as quick as without them."""
    sets = [pretend(f"{number:x}", 10**11 + number) for number in range(16)]
    chances = np.random.default_rng(5)
    changes = [Segment(10**10 * number, chances.uniform(0, 1, 16).tolist()) for number in range(1, 101)]

    def open_and_draw() -> None:
        mixture = Mixture([(shards, 1) for shards in sets], SEQ_LEN, SEED, changes)
        Loader(mixture, 512).samples(2 * 10**9)

    assert seconds(open_and_draw) < 0.3


def test_the_shares_hold_in_every_segment():
    segments = Segments({0: {0: 0.7, 1: 0.3}, 1000: {0: 0.1, 1: 0.9}}, 2)
    before, after = segments.counts(1000), segments.counts(3000)
    assert abs(before[0] - 700) <= 1 and abs(after[0] - before[0] - 200) <= 1
    assert segments.quotas() == [(0, {0: quotas([0.7, 0.3])[0], 1: quotas([0.7, 0.3])[1]}),
                                 (1000, {0: quotas([0.1, 0.9])[0], 1: quotas([0.1, 0.9])[1]})]  # fmt: skip
    assert all(sum(some.values()) == PERIOD for _, some in segments.quotas())
