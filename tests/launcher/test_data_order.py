"""What a checkpoint records of the mixture decides rightly whether a run may go on with another one."""

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.mixture import Segment, samples_digest
from launcher.train.data_order import in_words, mixture_record, past
from tests.data_pipeline.test_segments import SETS, build, segment_lists


def record(segments: list[Segment]) -> dict:
    """As it comes back from a checkpoint."""
    return json.loads(json.dumps({"segments": mixture_record(build(segments))}))


@settings(deadline=None, max_examples=80)
@given(one=segment_lists, other=segment_lists, cut=st.integers(0, 120))
def test_an_equal_past_is_the_same_samples(one: list[Segment], other: list[Segment], cut: int):
    same = past(record(one), cut) == past(record(other), cut)
    if same:
        assert samples_digest(build(one).samples(0, cut)) == samples_digest(build(other).samples(0, cut))


@settings(deadline=None, max_examples=60)
@given(segments=segment_lists, appended=segment_lists, more=st.integers(0, 50))
def test_what_is_appended_leaves_the_past(segments: list[Segment], appended: list[Segment], more: int):
    start = segments[-1].first + more
    longer = [*segments, *(Segment(start + segment.first, segment.weights) for segment in appended)]
    for cut in (0, start // 2, start):
        assert past(record(longer), cut) == past(record(segments), cut)


@settings(deadline=None, max_examples=40)
@given(weights=st.lists(st.floats(1e-6, 1e6), min_size=4, max_size=4))
def test_records_from_before_there_were_segments(weights: list[float]):
    old = {"sources": [[shards.digest, weight] for shards, weight in zip(SETS, weights, strict=True)]}
    now = record([Segment(0, weights)])
    assert past(json.loads(json.dumps(old)), 5) == past(now, 5) and past(old, 0) == past(now, 0) == []


def test_in_words():
    segments = past(record([Segment(0, [3, 1, 0, 0]), Segment(7, [0, 1, 0, 0])]), 100)
    assert in_words(segments, 32, {"a" * 64: "data/web"}) == (
        "from token 0 on data/web 75%, a set with other tokens (content sha256 bbbbbbbbbbbb...) 25%; "
        "from token 224 on a set with other tokens (content sha256 bbbbbbbbbbbb...) 100%"
    )
