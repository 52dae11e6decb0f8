"""What is left out leaves no trace of its text, moves no sample, and is counted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.execute import tokenize
from data_pipeline.mixture import Loader, Mixture
from data_pipeline.mixture.masking import count_targets, ids_of
from data_pipeline.mixture.skip import documents_named
from data_pipeline.mixture.windows import Windows
from data_pipeline.shards import ShardSet
from data_pipeline.tokenizer import Tokenizer
from tests.data_pipeline.conftest import sample_rows, write_jsonl

SEQ_LEN = 64


@pytest.fixture(scope="module")
def prefix(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 documents with ids in several shards; some are shorter than a window, most much longer."""
    folder = tmp_path_factory.mktemp("sets")
    rows = sample_rows("en.jsonl", 40)
    rows = [{**row, "id": f"doc-{n}", "text": row["text"][: 40 if n % 3 == 0 else 2000]} for n, row in enumerate(rows)]
    file = write_jsonl(folder / "en.jsonl", rows)
    tokenize([file], tokenizer, folder / "en", tokens_per_shard=5_000)
    return folder / "en"


def opened(prefix: Path, *skipped: range) -> Mixture:
    mixture = Mixture.open([(prefix, 1.0)], SEQ_LEN, seed=3)
    if skipped:
        mixture.skip(0, skipped)
    return mixture


def places_of(shards: ShardSet, documents: set[int]) -> np.ndarray:
    """True at every token of these documents, over the whole set."""
    marked = np.zeros(shards.num_tokens, bool)
    for document in documents:
        span = shards.document_span(document)
        marked[span.first : span.end] = True
    return marked


some_documents = st.lists(st.tuples(st.integers(0, 39), st.integers(0, 5)), min_size=1, max_size=5).map(
    lambda drawn: [range(first, min(40, first + length)) for first, length in drawn]
)


@settings(deadline=None, max_examples=25)
@given(skipped=some_documents)
def test_nothing_of_a_document_is_left_and_nothing_else_changes(prefix: Path, skipped: list[range]):
    numbers = {number for some in skipped for number in some}
    plain, mixture = opened(prefix), opened(prefix, *skipped)
    samples = plain.samples(0, plain.num_windows[0])
    np.testing.assert_array_equal(mixture.samples(0, len(samples)), samples)
    marked, eos = places_of(plain.sources[0], numbers), plain.sources[0].manifest.eos_id
    before, after = plain.read(samples), mixture.read(samples)
    hidden = np.stack([marked[window * SEQ_LEN :][: SEQ_LEN + 1] for window in samples[:, 1].tolist()])
    np.testing.assert_array_equal(after, np.where(hidden, ~eos, before))
    assert (ids_of(after)[hidden] == eos).all()
    assert mixture.num_targets(samples) == count_targets(after).sum() == SEQ_LEN * len(samples) - hidden[:, 1:].sum()
    assert len(mixture.skipped[0]) == len(numbers)
    assert {number for number in range(40) if number in mixture.skipped[0]} == numbers


class InPieces(Windows):
    """Rows of two stretches with a gap, to see that what is hidden follows the stretches and not the row."""

    def read(self, windows: np.ndarray, out: Sequence[np.ndarray]) -> None:
        for row, window in zip(out, windows.tolist(), strict=True):
            row[:] = ~self.shards.manifest.eos_id
            for column, first, length in self.stretches(window):
                self.shards.read_into(first, row[column : column + length])
                row[column] = ~row[column]

    def num_targets(self, windows: np.ndarray) -> np.ndarray:
        return np.full(len(windows), 29 + 19, np.int64)

    def stretches(self, window: int) -> list:
        start = window * self.seq_len
        return [(0, start + 30, 30), (40, start, 20)]

    def windows_with(self, first: int, end: int) -> list[int]:
        held = [(w, s, s + length) for w in range(self.num_windows) for _, s, length in self.stretches(w)]
        return sorted({window for window, start, stop in held if start < end and first < stop})


@pytest.mark.parametrize("skipped", [range(3, 4), range(5, 9), range(40)])
def test_rows_of_several_stretches(prefix: Path, skipped: range):
    shards = ShardSet.open(prefix)
    plain = Mixture([(shards, 1)], SEQ_LEN, 3, cut=InPieces)
    mixture = Mixture([(shards, 1)], SEQ_LEN, 3, cut=InPieces)
    mixture.skip(0, [skipped])
    samples = mixture.samples(0, mixture.num_windows[0])
    marked, before, after = places_of(shards, set(skipped)), plain.read(samples), mixture.read(samples)
    for old, new, window in zip(before, after, samples[:, 1].tolist(), strict=True):
        for column, first, length in plain.windows[0].stretches(window):
            hidden = marked[first : first + length]
            expected = np.where(hidden, ~shards.manifest.eos_id, old[column : column + length])
            np.testing.assert_array_equal(new[column : column + length], expected)
    assert plain.num_targets(samples) == count_targets(before).sum()
    assert mixture.num_targets(samples) == count_targets(after).sum()


def test_every_rank_counts_the_whole_step(prefix: Path):
    mixture = opened(prefix, range(2, 20))
    whole = Loader(mixture, 12).batch(5)
    parts = [Loader(mixture, 12, rank, 3).batch(5) for rank in range(3)]
    assert {part.target_tokens for part in parts} == {whole.target_tokens}
    assert whole.target_tokens == sum(count_targets(part.tokens).sum() for part in parts) < 12 * SEQ_LEN


def test_a_skipped_step_keeps_its_samples_and_its_number(prefix: Path):
    mixture = opened(prefix)
    plain, loader = Loader(mixture, 8), Loader(mixture, 8, skip_steps=[range(3, 5), range(7, 8)])
    assert [loader.skips(step) for step in range(1, 9)] == [step in (3, 4, 7) for step in range(1, 9)]
    for batch, other in zip(loader.batches(1, 8), plain.batches(1, 8), strict=True):
        assert (batch.step, batch.samples_digest) == (other.step, other.samples_digest)
        if batch.step in (3, 4, 7):
            assert batch.target_tokens == 0 and batch.tokens.shape == (0, SEQ_LEN + 1)
        else:
            np.testing.assert_array_equal(batch.tokens, other.tokens)


def test_a_step_of_which_every_document_is_skipped_has_no_targets(prefix: Path):
    batch = Loader(opened(prefix, range(40)), 8).batch(1)
    assert batch.target_tokens == 0 and len(batch.tokens) == 0


def test_documents_are_found_by_id_and_by_record(prefix: Path):
    shards = ShardSet.open(prefix)
    names = ["doc-0", "doc-17", "nobody", "en.jsonl:5", "en.jsonl:400", "other.jsonl:5", f"{prefix}.jsonl:39", "x:y"]
    assert documents_named(shards, names) == {
        "doc-0": [0],
        "doc-17": [17],
        "en.jsonl:5": [5],
        f"{prefix}.jsonl:39": [39],
    }
    everything = documents_named(shards, [f"doc-{number}" for number in range(40)])
    assert everything == {f"doc-{number}": shards.find_documents(f"doc-{number}") for number in range(40)}
