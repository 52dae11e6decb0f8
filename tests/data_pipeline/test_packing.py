"""Best-fit packing: no document is cut that fits, every step between two tokens is trained on once, made once."""

import subprocess
import sys
import time
from bisect import bisect_left, insort
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.config import PrepareConfig
from data_pipeline.errors import DataError
from data_pipeline.execute import prepare
from data_pipeline.mixture import Loader, Mixture, pack_build
from data_pipeline.mixture.best_fit import best_fit
from data_pipeline.mixture.masking import count_targets, ids_of
from data_pipeline.mixture.pack_build import contiguous_cuts, open_plan
from data_pipeline.mixture.packed import PackedWindows
from data_pipeline.mixture.packing import pack
from data_pipeline.shards import ShardSet
from data_pipeline.tokenizer import Tokenizer
from tests.data_pipeline.token_sets import random_documents, write_set

SEQ_LEN = 64


def textbook_best_fit(lengths: list[int], capacity: int) -> list[int]:
    """Rooms left in the bins, ascending: the longest item first, each into the fullest bin that takes it."""
    rooms: list[int] = []
    for length in sorted(lengths, reverse=True):
        place = bisect_left(rooms, length)
        room = rooms.pop(place) if place < len(rooms) else capacity
        insort(rooms, room - length)
    return rooms


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 700).flatmap(lambda c: st.tuples(st.just(c), st.lists(st.integers(1, c), max_size=80))))
def test_it_is_best_fit_decreasing(case: tuple[int, list[int]]):
    capacity, lengths = case
    items, ends = best_fit(np.array(lengths, np.int64), capacity)
    assert sorted(items.tolist()) == list(range(len(lengths)))
    bins = [[lengths[i] for i in items[begin:end].tolist()] for begin, end in pairwise([0, *ends.tolist()])]
    assert sorted(capacity - sum(some) for some in bins) == textbook_best_fit(lengths, capacity)
    assert all(some == sorted(some, reverse=True) for some in bins)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 60), max_size=60), st.integers(1, 20), st.integers(0, 10**12))
def test_each_step_between_two_tokens_of_a_document_is_in_one_window(lengths: list[int], seq_len: int, first: int):
    pieces, counts = pack(np.array(lengths, np.int64), first, seq_len)
    steps = sorted(place for begin, length in pieces.tolist() for place in range(begin, begin + length - 1))
    starts = first + np.cumsum([0, *lengths])
    assert steps == [
        place for start, length in zip(starts, lengths, strict=False) for place in range(start, start + length - 1)
    ]
    assert counts.sum() == len(pieces) and (counts >= 1).all()
    ends = np.cumsum(counts)
    for begin, end in pairwise([0, *ends.tolist()]):
        assert pieces["length"][begin:end].sum() <= seq_len + 1
    whole = {
        start: length for start, length in zip(starts.tolist(), lengths, strict=False) if 2 <= length <= seq_len + 1
    }
    assert {begin: length for begin, length in pieces.tolist() if begin in whole} == whole, "one that fits was cut"


def test_only_a_piece_that_fills_its_window_lacks_the_end_of_its_document():
    """So that wherever two pieces meet, the end-of-document token stands between them."""
    lengths = np.random.default_rng(1).integers(1, 300, 500)
    pieces, counts = pack(lengths, 0, SEQ_LEN)
    ends = set(np.cumsum(lengths).tolist())
    alone = np.repeat(counts == 1, counts)
    for (first, length), single in zip(pieces.tolist(), alone.tolist(), strict=True):
        assert first + length in ends or (single and length == SEQ_LEN + 1)


def web_like(count: int, seed: int = 0) -> np.ndarray:
    """Lengths of documents as web crawls have them."""
    return np.random.default_rng(seed).lognormal(6.3, 1.1, count).astype(np.int64) + 2


@pytest.mark.parametrize("seq_len", [512, 2048, 8192])
def test_windows_of_web_documents_are_nearly_full(seq_len: int):
    lengths = web_like(100_000)
    pieces, counts = pack(lengths, 0, seq_len)
    assert pieces["length"].sum() / (len(counts) * (seq_len + 1)) > 0.999
    starts = np.cumsum(lengths) - lengths
    cut = np.count_nonzero(lengths > seq_len + 1)
    assert 0 < cut < 0.7 * contiguous_cuts(starts, lengths, seq_len, (int(lengths.sum()) - 1) // seq_len)


def test_contiguous_cuts_are_counted_as_a_loop_counts_them():
    lengths = np.random.default_rng(3).integers(0, 40, 100)
    starts = np.cumsum(lengths) - lengths
    for seq_len in (1, 16, 100):
        windows = (int(lengths.sum()) - 1) // seq_len
        rows = [set(range(w * seq_len, (w + 1) * seq_len + 1)) for w in range(windows)]
        cut = sum(
            not any(set(range(start, start + length)) <= row for row in rows)
            for start, length in zip(starts.tolist(), lengths.tolist(), strict=True)
        )
        assert contiguous_cuts(starts, lengths, seq_len, windows) == cut


def test_a_million_documents_are_packed_in_moments():
    lengths = web_like(2**20)
    start = time.perf_counter()
    for block in np.split(lengths, 4):
        pack(block, 0, 2048)
    assert time.perf_counter() - start < 5, "usually a tenth of a second"


@pytest.fixture(scope="module")
def documents() -> list[np.ndarray]:
    """Of every kind: without any id, of one, just fitting, just too long, several windows long, and many short."""
    odd = [0, 1, SEQ_LEN - 1, SEQ_LEN, SEQ_LEN + 1, 2 * SEQ_LEN - 1, 2 * SEQ_LEN, 2 * SEQ_LEN + 1, 1000]
    return random_documents([*odd, *np.random.default_rng(5).integers(0, 150, 300).tolist()], 500)


@pytest.fixture
def packed_set(documents: list[np.ndarray], tokenizer: Tokenizer, tmp_path: Path) -> ShardSet:
    """Those documents in several shards."""
    return write_set(tmp_path / "set", tokenizer, documents, tokens_per_shard=4000)


def read_all(windows: PackedWindows) -> np.ndarray:
    out = np.empty((windows.num_windows, windows.seq_len + 1), np.int64)
    windows.read(np.arange(windows.num_windows), out)
    return out


def test_rows_hold_the_documents_and_padding_outside_the_loss(packed_set: ShardSet, documents: list[np.ndarray]):
    windows, eos = PackedWindows(packed_set, SEQ_LEN), packed_set.manifest.eos_id
    rows = read_all(windows)
    np.testing.assert_array_equal(count_targets(rows), windows.num_targets(np.arange(len(rows))))
    assert count_targets(rows).sum() == sum(len(ids) for ids in documents)
    whole = {tuple(ids.tolist()) for ids in documents if 1 <= len(ids) <= SEQ_LEN}
    found = []
    for number, row in enumerate(rows):
        filled = 0
        for column, first, length in windows.stretches(number):
            assert column == filled
            filled += length
            np.testing.assert_array_equal(ids_of(row[column:filled]), packed_set.read(first, length))
            assert (row[column + 1 : filled] >= 0).all(), "all but the first token of a piece are targets"
            assert column == 0 or row[column] < 0
            found.append(tuple(ids_of(row[column : filled - 1]).tolist()))
        assert (row[filled:] == ~eos).all()
    assert whole <= set(found)


def test_a_window_is_a_function_of_its_number(packed_set: ShardSet):
    windows = PackedWindows(packed_set, SEQ_LEN)
    rows = read_all(windows)
    order = np.random.default_rng(0).permutation(len(rows))
    again = np.empty_like(rows)
    for part in np.array_split(np.arange(len(rows)), 7):
        some = np.empty((len(part), SEQ_LEN + 1), np.int64)
        windows.read(order[part], some)
        again[order[part]] = some
    np.testing.assert_array_equal(again, rows)
    np.testing.assert_array_equal(read_all(PackedWindows(ShardSet.open(packed_set.prefix), SEQ_LEN)), rows)


def test_shards_do_not_matter_only_documents(documents: list[np.ndarray], tokenizer: Tokenizer, tmp_path: Path):
    one, other = (write_set(tmp_path / f"{n}", tokenizer, documents, n) for n in (2**31, 3000))
    np.testing.assert_array_equal(read_all(PackedWindows(one, SEQ_LEN)), read_all(PackedWindows(other, SEQ_LEN)))


def test_the_windows_of_a_document_are_found(packed_set: ShardSet, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pack_build, "DOCUMENTS_PER_BLOCK", 50)
    windows = PackedWindows(packed_set, SEQ_LEN)
    assert len(windows._plan.blocks) == 7
    holding: dict[int, set[int]] = {}
    for number in range(windows.num_windows):
        for _, first, length in windows.stretches(number):
            for place in range(first, first + length):
                holding.setdefault(place, set()).add(number)
    for first, end in [packed_set.document_span(n)[1:] for n in range(packed_set.num_documents)] + [
        (0, 3000),
        (17, 18),
    ]:
        expected = sorted(set().union(*(holding.get(place, set()) for place in range(first, end))))
        assert windows.windows_with(first, end) == expected


def test_blocks_bound_what_is_packed_at_once(packed_set: ShardSet, documents, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pack_build, "DOCUMENTS_PER_BLOCK", 7)
    windows = PackedWindows(packed_set, SEQ_LEN)
    assert len(windows._plan.blocks) == -(-len(documents) // 7)
    assert count_targets(read_all(windows)).sum() == sum(len(ids) for ids in documents)


def test_the_plan_counts(packed_set: ShardSet, documents: list[np.ndarray]):
    plan = open_plan(packed_set, SEQ_LEN).plan
    assert plan.documents == len(documents)
    assert plan.best_fit.cut_documents == plan.too_long_documents == sum(len(ids) > SEQ_LEN for ids in documents)
    assert plan.best_fit.targets == sum(len(ids) for ids in documents)
    assert plan.contiguous.windows == (packed_set.num_tokens - 1) // SEQ_LEN
    assert plan.contiguous.targets == plan.contiguous.windows * SEQ_LEN
    assert plan.contiguous.cut_documents > 1.3 * plan.best_fit.cut_documents


def test_the_plan_is_made_once_and_opened_without_the_index(packed_set: ShardSet, monkeypatch: pytest.MonkeyPatch):
    rows = read_all(PackedWindows(packed_set, SEQ_LEN))
    monkeypatch.setattr(pack_build, "_write", lambda *_: pytest.fail("made again"))
    for index in packed_set.prefix.parent.glob("*.idx"):
        index.unlink()
    np.testing.assert_array_equal(read_all(PackedWindows(ShardSet.open(packed_set.prefix), SEQ_LEN)), rows)
    (plan,) = packed_set.prefix.parent.glob("set.packed-*")
    assert plan.name == f"set.packed-{SEQ_LEN}-{packed_set.digest[:16]}"
    assert plan.stat().st_mode & 0o777 == packed_set.prefix.parent.stat().st_mode & 0o777 | plan.stat().st_mode & 0o777


def test_other_tokens_or_lengths_have_another_plan(packed_set: ShardSet, tokenizer: Tokenizer, tmp_path: Path):
    PackedWindows(packed_set, SEQ_LEN)
    assert PackedWindows(packed_set, 32).num_windows > PackedWindows(packed_set, SEQ_LEN).num_windows
    other = write_set(tmp_path / "set", tokenizer, random_documents([30, 40], 500, seed=9))
    assert PackedWindows(other, SEQ_LEN).num_windows == 2
    assert [path.name for path in tmp_path.glob("set.packed-*")] == [f"set.packed-{SEQ_LEN}-{other.digest[:16]}"]


def test_a_preparation_replaces_plans_with_the_rest(corpus: Path, tmp_path: Path):
    settings = {
        "out": tmp_path / "out",
        "validation_fraction": 0,
        "sources": [{"kind": "files", "files": [str(corpus)]}],
        "tokenizer": {"kind": "train", "vocab_size": 300},
    }
    for vocab_size in (300, 310):
        settings["tokenizer"]["vocab_size"] = vocab_size
        prepare(PrepareConfig.model_validate(settings))
        assert list((tmp_path / "out").glob("*packed*")) == []
        PackedWindows(ShardSet.open(tmp_path / "out" / "train"), SEQ_LEN)


def test_where_nothing_can_be_written_the_cache_folder_has_the_plan(
    packed_set: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """A folder in the place of the lock file stops even a superuser."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    name = f"set.packed-{SEQ_LEN}-{packed_set.digest[:16]}"
    (tmp_path / f".{name}.lock").mkdir()
    rows = read_all(PackedWindows(packed_set, SEQ_LEN))
    assert (tmp_path / "cache" / "megamodel" / name / "plan.json").is_file() and not (tmp_path / name).exists()
    np.testing.assert_array_equal(read_all(PackedWindows(packed_set, SEQ_LEN)), rows)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match=r"cannot write the packing plan of .*set in .* or in .*file/megamodel"):
        PackedWindows(packed_set, SEQ_LEN)


OPEN = """
import sys, numpy as np, hashlib
from data_pipeline.mixture import pack_build
from data_pipeline.mixture.packed import PackedWindows
from data_pipeline.shards import ShardSet
write = pack_build._write
pack_build._write = lambda *given: (print("made"), write(*given), __import__("time").sleep(0.5))
windows = PackedWindows(ShardSet.open(sys.argv[1]), 64)
out = np.empty((windows.num_windows, 65), np.int64)
windows.read(np.arange(windows.num_windows), out)
print(hashlib.sha256(out.tobytes()).hexdigest())
"""


def test_of_several_processes_one_makes_the_plan_and_the_others_wait(packed_set: ShardSet):
    command = [sys.executable, "-c", OPEN, str(packed_set.prefix)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    said = [process.communicate(timeout=60)[0].split() for process in started]
    assert [process.returncode for process in started] == [0, 0, 0]
    assert sum("made" in words for words in said) == 1
    assert len({words[-1] for words in said}) == 1
    assert [path for path in packed_set.prefix.parent.iterdir() if path.name.startswith(".")] == []


@pytest.mark.parametrize("name", ["pieces", "windows", "plan.json"])
def test_a_damaged_plan_is_noticed(packed_set: ShardSet, name: str):
    windows = PackedWindows(packed_set, SEQ_LEN)
    file = windows._plan.folder / (name if name.endswith("json") else f"{name}.bin")
    good = file.read_bytes()
    file.write_bytes(good[:-5])
    with pytest.raises(DataError, match=r"set.packed-64-\w+ is damaged .*; remove the folder: it is made again"):
        PackedWindows(packed_set, SEQ_LEN)
    if name == "plan.json":
        return
    for place in np.random.default_rng(0).integers(0, 8 * len(good), 60).tolist():
        bad = bytearray(good)
        bad[place // 8] ^= 1 << place % 8
        file.write_bytes(bad)
        with pytest.raises(DataError, match="is damaged"):
            read_all(PackedWindows(packed_set, SEQ_LEN))


def test_documents_must_end_visibly(packed_set: ShardSet):
    manifest = packed_set.manifest.model_copy(update={"num_eos_tokens": 300})
    with pytest.raises(DataError, match=r"only 300 of 309 documents end in .*data\.packing=contiguous"):
        PackedWindows(ShardSet(packed_set.prefix, manifest), SEQ_LEN)


def test_a_set_without_anything_to_predict_is_refused(tokenizer: Tokenizer, tmp_path: Path):
    shards = write_set(tmp_path / "set", tokenizer, random_documents([0, 0, 0], 500))
    with pytest.raises(DataError, match="no document of two tokens or more"):
        PackedWindows(shards, SEQ_LEN)


def test_an_index_that_does_not_fit_the_tokens_is_noticed(packed_set: ShardSet):
    (index,) = packed_set.prefix.parent.glob("set_00001*.idx")
    raw = bytearray(index.read_bytes())
    documents = packed_set.manifest.shards[1].num_documents
    place = 34 + 4 * documents + 8 * 5
    raw[place : place + 8] = (10**6).to_bytes(8, "little")
    index.write_bytes(raw)
    with pytest.raises(DataError, match=r"set_00001_text_document.idx is damaged: its documents do not end where"):
        PackedWindows(packed_set, SEQ_LEN)


def test_a_mixture_of_packed_windows(packed_set: ShardSet, tokenizer: Tokenizer, tmp_path: Path):
    other = write_set(tmp_path / "other", tokenizer, random_documents([100, 20, 30, 7] * 20, 500, seed=2))
    mixture = Mixture([(packed_set, 0.8), (other, 0.2)], SEQ_LEN, seed=3, cut=PackedWindows)
    everything = mixture.samples(0, 5000)
    for source, count in enumerate(mixture.num_windows):
        drawn = everything[everything[:, 0] == source, 1]
        np.testing.assert_array_equal(np.sort(drawn[:count]), np.arange(count))
    for ranks in (1, 2, 4):
        parts = [Loader(mixture, 16, rank, ranks).batch(5) for rank in range(ranks)]
        tokens = np.concatenate([part.tokens for part in parts])
        np.testing.assert_array_equal(tokens, mixture.read(mixture.samples(64, 16)))
        assert {part.target_tokens for part in parts} == {count_targets(tokens).sum()}
    assert not np.array_equal(
        mixture.samples(0, 50), Mixture([(packed_set, 0.8), (other, 0.2)], SEQ_LEN, 3).samples(0, 50)
    )


def test_what_is_skipped_leaves_the_targets_of_the_others(packed_set: ShardSet, documents: list[np.ndarray]):
    mixture = Mixture([(packed_set, 1.0)], SEQ_LEN, seed=3, cut=PackedWindows)
    samples = mixture.samples(0, mixture.num_windows[0])
    before = mixture.read(samples)
    gone = [range(2, 9), range(20, 21), range(100, 150)]
    mixture.skip(0, gone)
    rows = mixture.read(samples)
    assert mixture.num_targets(samples) == count_targets(rows).sum()
    lost = sum(len(documents[n]) for some in gone for n in some)
    assert count_targets(before).sum() - count_targets(rows).sum() == lost
    changed = rows != before
    assert (rows[changed] == ~packed_set.manifest.eos_id).all()
