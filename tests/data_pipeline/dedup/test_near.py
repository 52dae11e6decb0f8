"""Near duplicates: what is found is exactly what the rule says, for any split of the work, and enough of it."""

import json
import tempfile
from collections import Counter, defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.dedup.minhash import band_hashes
from data_pipeline.dedup.near import EDGE, find_candidates
from data_pipeline.dedup.rows import write_rows
from data_pipeline.dedup.runs import parts_for
from data_pipeline.dedup.settings import NearDuplicates
from tests.data_pipeline.dedup.planted import near_copy, random_words
from tests.data_pipeline.dedup.stages import deduplicate, expected, similarity, words_shingles, write_task

HASHES = [0, 1, 2**63, 2**64 // 3, 2**64 // 3 + 1, 2**64 - 2, 2**64 - 1]
MEMORIES = [1, 1000, 2**22]


def edges_of(buckets: list[int], stay: list[bool]) -> list[tuple[int, int]]:
    """The pairs of places that the rule asks for, given the hash of each place."""
    groups, edges = defaultdict(list), set()
    for place, (bucket, stays) in enumerate(zip(buckets, stay, strict=True)):
        if stays:
            edges |= {(place, other) for other in groups[bucket][:1] + groups[bucket][-1:]}
            groups[bucket].append(place)
    return sorted(edges)


@settings(deadline=None, max_examples=40)
@given(
    tasks=st.lists(st.lists(st.tuples(st.sampled_from(HASHES), st.booleans()), max_size=15), max_size=4),
    parts=st.integers(1, 4),
    memory=st.sampled_from(MEMORIES),
)
def test_candidates_are_the_first_and_the_one_before(
    tmp_path_factory: pytest.TempPathFactory, tasks: list[list[tuple[int, bool]]], parts: int, memory: int
):
    """In the second of two bands, for hashes at the ends of ranges, and documents that take no part."""
    folder = tmp_path_factory.mktemp("near")
    runs, numbers = [], []
    for task, rows in enumerate(tasks):
        bands = np.array([[7, bucket] for bucket, _ in rows], np.uint64).reshape(-1, 2)
        runs.append(write_task(folder / str(task), task, bands, bands, memory))
        numbers += [task << 32 | row for row in range(len(rows))]
    stay = [stays for rows in tasks for _, stays in rows]
    gone = [number for number, stays in zip(numbers, stay, strict=True) if not stays]
    write_rows(folder / "dropped.npy", np.dtype("<u8"), [np.array(gone, "<u8")])
    found = []
    for part in range(parts):
        out = folder / f"{part}.npy"
        count = find_candidates(runs, 2, 1, part, parts, folder / "dropped.npy", memory, out)
        pairs = np.load(out)
        assert pairs.dtype == EDGE and count == len(pairs) and pairs.tolist() == sorted(set(pairs.tolist()))
        found += pairs.tolist()
    wanted = edges_of([bucket for rows in tasks for bucket, _ in rows], stay)
    assert sorted(found) == [(numbers[later], numbers[earlier]) for later, earlier in wanted]
    everything = find_candidates(runs, 2, 0, 0, 1, None, memory, folder / "first.npy")
    assert everything == max(0, 2 * len(numbers) - 3)


words = st.lists(st.sampled_from(["a", "b", "B", "c"]), max_size=6).map(" ".join)


@settings(deadline=None, max_examples=25)
@given(texts=st.lists(words, max_size=20), data=st.data())
def test_the_result_is_that_of_the_rule_for_any_split_of_the_work(texts: list[str], data: st.DataObject):
    near = NearDuplicates(threshold=0.5, ngram=2, bands=3, rows=1)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(texts)), max_size=3)))
    tasks = [texts[first:end] for first, end in zip([0, *cuts], [*cuts, len(texts)], strict=True)]
    parts, memory = data.draw(st.integers(1, 3)), data.draw(st.sampled_from(MEMORIES))
    with tempfile.TemporaryDirectory() as folder:
        assert deduplicate(tasks, near, Path(folder), parts, memory) == expected(texts, near)


def all_similar_pairs(texts: list[str], threshold: float, ngram: int) -> dict[tuple[int, int], float]:
    """(later, earlier) of all pairs at the threshold or above: each pair with a common shingle is compared."""
    sets = [words_shingles(text, ngram) for text in texts]
    having = defaultdict(list)
    for place, shingles in enumerate(sets):
        for shingle in shingles:
            having[shingle].append(place)
    pairs = {(later, earlier) for places in having.values() for earlier, later in combinations(places, 2)}
    shares = {(later, earlier): similarity(sets[later], sets[earlier]) for later, earlier in pairs}
    return {pair: share for pair, share in shares.items() if share >= threshold}


def planted(generator: np.random.Generator) -> tuple[list[str], Counter]:
    """2,600 texts in random order, of which 1,000 are copies: exact ones, near ones, and some below the threshold."""
    documents = [random_words(generator, int(count)) for count in generator.integers(60, 200, 1600)]
    similarities = [1.0] * 200 + [0.95, 0.9, 0.85, 0.81, 0.75, 0.7, 0.6, 0.5] * 100
    copies = [near_copy(documents[row], share, 5, generator) for row, share in enumerate(similarities)]
    texts = [" ".join(each) for each in documents + copies]
    return [texts[place] for place in generator.permutation(len(texts))], Counter(similarities)


def test_recall_and_precision_on_planted_duplicates(tmp_path: Path):
    """Against all pairs: nothing is dropped without cause, and as many are found as 14 bands of 8 promise."""
    texts, planted_of = planted(np.random.default_rng(5))
    near = NearDuplicates()
    exact, found = deduplicate([texts[:1000], texts[1000:1700], texts[1700:]], near, tmp_path, 3, 2**20)
    similar = all_similar_pairs(texts, near.threshold, near.ngram)
    assert len(exact) == planted_of[1.0]
    for later, earlier, share in found:
        assert similar[later, earlier] == pytest.approx(share, abs=1e-6)
    true = {later for (later, _), share in similar.items() if share < 1}
    hoped = sum(1 - (1 - share**8) ** 14 for share in similar.values() if share < 1)
    assert len(true) >= 380
    assert len(found) >= hoped - 4 * np.sqrt(hoped * (1 - hoped / len(true)) + 1)
    assert len(found) >= 0.95 * len(true)
    dropped = {later for later, _, _ in found}
    assert dropped <= true
    surest = {later for (later, _), share in similar.items() if 0.89 < share < 1}
    assert len(surest) >= 195 and surest <= dropped


def test_chinese_poems(tmp_path: Path, sample_poems: list[str]):
    """With characters as units: the sample's poems, each with one character of it changed, behind them."""
    near = NearDuplicates(ngram=3)
    long = [poem for poem in sample_poems if len(poem) >= 100]
    middles = [len(poem) // 2 for poem in long]
    changed = [poem[:middle] + "閎" + poem[middle + 1 :] for poem, middle in zip(long, middles, strict=True)]
    exact, found = deduplicate([sample_poems, changed], near, tmp_path)
    pairs = {later - len(sample_poems): earlier for later, earlier, _ in found if later >= len(sample_poems)}
    right = [sample_poems[pairs[row]] == long[row] for row in range(len(long)) if row in pairs]
    assert not exact and all(right) and len(right) >= 0.98 * len(long) and len(long) >= 20


def test_empty_and_tiny_documents(tmp_path: Path):
    """Without a unit nothing resembles; fewer units than a shingle are one shingle, of all of them."""
    texts = ["", "!!!", "word", "...", "a b", "Word!", "b a", "A, b", "word word", ""]
    exact, found = deduplicate([texts], NearDuplicates(), tmp_path)
    assert exact == [9]
    assert [(later, earlier) for later, earlier, _ in found] == [(5, 2), (7, 4)]


def test_the_earliest_confirmed_partner_is_named(tmp_path: Path):
    generator = np.random.default_rng(2)
    base = random_words(generator, 104)
    far = " ".join(near_copy(base, 0.6, 5, generator))
    one, other = (" ".join([*base, extra]) for extra in ("x", "y"))
    _, found = deduplicate([[far, one], [" ".join(base), other]], NearDuplicates(), tmp_path)
    assert [(later, earlier) for later, earlier, _ in found] == [(2, 1), (3, 1)]


def test_parts_are_enough_and_no_more_than_that():
    assert parts_for(0, 2**30) == 1 and parts_for(1000, 2**30) == 1
    assert parts_for(10**9, 2**30) in range(100, 500)
    assert parts_for(10**9, 2**29) == pytest.approx(2 * parts_for(10**9, 2**30), abs=1)


@pytest.fixture
def sample_poems() -> list[str]:
    sample = Path(__file__).parents[3] / "data_pipeline" / "sample" / "zh.jsonl"
    return [json.loads(line)["text"] for line in sample.read_text(encoding="utf-8").splitlines()]


def test_hashes_of_all_bands_differ():
    """A band is no copy of another: documents that share one need not share the next."""
    texts = [" ".join(random_words(np.random.default_rng(seed), 50)) for seed in range(20)]
    hashes = band_hashes(texts, NearDuplicates())
    assert len(np.unique(hashes)) == hashes.size
