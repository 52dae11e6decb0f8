"""Equal texts have equal keys, whatever does not count; the first of each group stays."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.dedup.exact import _digest, exact_keys, find_exact
from data_pipeline.dedup.runs import unite
from tests.data_pipeline.dedup.stages import write_task

EDGES = [0, 1, 2**63, 2**64 // 3, 2**64 // 3 + 1, 2**64 - 2, 2**64 - 1]


def test_what_counts_as_the_same_text():
    same = ["Straße und  Café", "STRASSE und\nCafé ", "\tstrasse UND cafe\u0301"]
    others = ["Strasse und Cafe", "Strasse undCafé", "Strasse, und Café", "", "."]
    keys = exact_keys(same + others)
    assert keys.dtype == np.uint64 and keys.shape == (8, 2)
    assert len(np.unique(keys, axis=0)) == 1 + len(others)
    assert len(np.unique(keys[:3], axis=0)) == 1
    np.testing.assert_array_equal(exact_keys(["\ud800"]), exact_keys(["\ud800 "]))
    assert exact_keys([]).shape == (0, 2)


@settings(deadline=None, max_examples=300)
@given(text=st.text(st.sampled_from("ab \n\u3000é"), max_size=20), window=st.integers(1, 8))
def test_the_window_makes_no_difference(text: str, window: int):
    assert _digest(text, window) == hashlib.blake2b(" ".join(text.split()).encode(), digest_size=16).digest()


def find_all(runs: list[Path], folder: Path, parts: int, memory: int) -> list[int]:
    paths = [folder / f"exact{part}.npy" for part in range(parts)]
    counts = [find_exact(runs, part, parts, memory, path) for part, path in enumerate(paths)]
    assert counts == [len(np.load(path)) for path in paths]
    assert unite(paths, folder / "all.npy", memory) == sum(counts)
    return np.load(folder / "all.npy").tolist()


@settings(deadline=None, max_examples=30)
@given(
    tasks=st.lists(
        st.lists(st.tuples(st.sampled_from(EDGES), st.sampled_from([0, 2**64 - 1])), max_size=12), max_size=4
    ),
    parts=st.integers(1, 4),
    memory=st.sampled_from([1, 1000, 2**20]),
)
def test_the_first_stays_for_any_keys_parts_and_memory(
    tmp_path_factory: pytest.TempPathFactory, tasks: list[list[tuple[int, int]]], parts: int, memory: int
):
    folder = tmp_path_factory.mktemp("exact")
    runs, seen, wanted = [], set(), []
    for task, keys in enumerate(tasks):
        table = np.array(keys, np.uint64).reshape(-1, 2)
        runs.append(write_task(folder / str(task), task, table, np.zeros((len(keys), 1), np.uint64), memory))
        for row, key in enumerate(keys):
            if key in seen:
                wanted.append(task << 32 | row)
            seen.add(key)
    assert find_all(runs, folder, parts, memory) == wanted
