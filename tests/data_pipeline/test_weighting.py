"""Weights from documents and from sizes, against their definitions."""

from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_pipeline.mixture.blend import PERIOD, quotas
from data_pipeline.mixture.weighting import by_documents, by_temperature
from data_pipeline.shards import ShardSet
from data_pipeline.shards.manifest import FileRecord, Manifest, ShardRecord


def pretend(documents: int, tokens: int) -> ShardSet:
    """A shard set of which only the counts matter."""
    none = FileRecord(name="none", size=0, sha256="")
    manifest = Manifest(
        dtype="uint16", vocab_size=300, tokenizer_sha256="0" * 64, eos_id=0, num_documents=documents,
        num_tokens=tokens, num_eos_tokens=documents, num_empty_documents=0, text_bytes=0, text_field="text",
        id_field="id", sources=[], content_sha256="a",
        shards=[ShardRecord(num_documents=documents, num_tokens=tokens, bin=none, idx=none, documents=none)],
    )  # fmt: skip
    return ShardSet(Path("x"), manifest)


def shares(weights: list) -> list[float]:
    return [quota / PERIOD for quota in quotas(weights)]


def test_weights_that_count_documents():
    """As many documents of each: the source whose documents are ten times as long gives ten times the tokens."""
    short, long = pretend(1000, 100_000), pretend(50, 50_000)
    assert shares(by_documents([1, 1], [short, long])) == pytest.approx([1 / 11, 10 / 11], abs=1e-5)
    assert shares(by_documents([5, 1], [short, long])) == pytest.approx([1 / 3, 2 / 3], abs=1e-5)


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (1.0, [0.9, 0.1]),
        (2.0, [0.75, 0.25]),
        (1 / 0.3, [9**0.3 / (9**0.3 + 1), 1 / (9**0.3 + 1)]),  # alpha = 0.3 of XLM-R and mT5
        (1e6, [0.5, 0.5]),
        (0.5, [81 / 82, 1 / 82]),
    ],
)
def test_temperature(temperature: float, expected: list[float]):
    assert shares(by_temperature([1, 1], [9_000_000, 1_000_000], temperature)) == pytest.approx(expected, abs=1e-5)


def test_weights_multiply_what_the_sizes_give():
    assert shares(by_temperature([1, 3, 0.5], [100, 100, 200], 1.0)) == pytest.approx([0.2, 0.6, 0.2], abs=1e-5)


@given(
    sizes=st.lists(st.integers(1, 10**14), min_size=2, max_size=8),
    temperature=st.floats(0.01, 1000),
)
def test_larger_sources_never_get_less(sizes: list[int], temperature: float):
    found = by_temperature([1.0] * len(sizes), sizes, temperature)
    assert [share for _, share in sorted(zip(sizes, found, strict=True))] == sorted(found)
    assert sum(quotas(found)) == PERIOD


def test_the_digits_never_change():
    """They decide quotas, and those the order of the data: the same on every machine."""
    (share,) = by_temperature([1], [123_456_789_012], 3.3)
    assert share == Fraction("2296.493098554692048337788852271496731911")
