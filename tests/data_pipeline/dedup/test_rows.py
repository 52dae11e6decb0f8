"""Sorted files: found, read, merged and sorted in blocks, whole or not at all."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.dedup.rows import RowFile, Stretch, merge, rows_within, sort_rows, whole, write_rows, write_sorted
from data_pipeline.errors import DataError

PAIR = np.dtype([("one", "<u8"), ("two", "<u8")])
NUMBER = np.dtype("<u8")
values = st.sampled_from([0, 1, 2, 2**32, 2**63 - 1, 2**63, 2**64 - 2, 2**64 - 1])
chunks = st.lists(st.lists(st.tuples(values, values), max_size=8), max_size=6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("rows")


@settings(deadline=None, max_examples=80)
@given(chunks=chunks, memory=st.integers(1, 1500))
def test_merging_is_sorting_all(folder: Path, chunks: list[list[tuple[int, int]]], memory: int):
    files = []
    for number, chunk in enumerate(chunks):
        write_rows(folder / f"{number}.npy", PAIR, [np.array(sorted(chunk), PAIR)])
        files.append(RowFile(folder / f"{number}.npy"))
    blocks = [block.tolist() for block in merge([whole(file) for file in files], memory)]
    assert [row for block in blocks for row in block] == sorted(row for chunk in chunks for row in chunk)
    assert all(0 < len(block) <= max(rows_within(memory, PAIR), len(chunks)) for block in blocks)


@settings(deadline=None, max_examples=80)
@given(chunks=chunks, memory=st.integers(1, 1500))
def test_sorting_through_files_keeps_each_row_once(folder: Path, chunks: list[list[tuple[int, int]]], memory: int):
    out = folder / "sorted.npy"
    count = write_sorted((np.array(chunk, PAIR) for chunk in chunks), PAIR, out, memory)
    wanted = sorted({row for chunk in chunks for row in chunk})
    assert np.load(out).tolist() == wanted and count == len(wanted)
    assert not list(folder.glob("*.sorting")) and not list(folder.glob("*.partial"))


@settings(deadline=None, max_examples=100)
@given(numbers=st.lists(values, max_size=20), value=st.integers(0, 2**64), data=st.data())
def test_finding_is_bisection(folder: Path, numbers: list[int], value: int, data: st.DataObject):
    first = data.draw(st.integers(0, len(numbers)))
    end = data.draw(st.integers(first, len(numbers)))
    numbers = numbers[:first] + sorted(numbers[first:end]) + numbers[end:]
    write_rows(folder / "found.npy", NUMBER, [np.array(numbers, NUMBER)])
    wanted = first + sum(number < value for number in numbers[first:end])
    assert RowFile(folder / "found.npy").find(value, first, end) == wanted


def test_a_filter_that_takes_everything_ends(tmp_path: Path):
    write_rows(tmp_path / "a.npy", NUMBER, [np.arange(100, dtype=NUMBER)])
    stretch = Stretch(RowFile(tmp_path / "a.npy"), 10, 90)
    assert list(merge([stretch], 1, lambda rows: rows[:0])) == []
    odd = merge([stretch], 200, lambda rows: rows[rows % 2 == 1])
    assert np.concatenate(list(odd)).tolist() == list(range(11, 90, 2))


def test_numpy_reads_what_is_written_in_blocks(tmp_path: Path):
    rows = sort_rows(np.array([(3, 1), (1, 2), (1, 1)], PAIR))
    assert write_rows(tmp_path / "a.npy", PAIR, [rows[:1], rows[:0], rows[1:]]) == 3
    read = np.load(tmp_path / "a.npy")
    assert read.dtype == PAIR and read.tolist() == [(1, 1), (1, 2), (3, 1)]


def test_a_file_that_is_cut_off_or_foreign_is_named(tmp_path: Path):
    path = tmp_path / "a.npy"
    with pytest.raises(DataError, match=r"cannot read .*a\.npy"):
        RowFile(path)
    write_rows(path, NUMBER, [np.arange(100, dtype=NUMBER)])
    whole_file = path.read_bytes()
    for size in (0, 5, 60):
        path.write_bytes(whole_file[:size])
        with pytest.raises(DataError, match=r"cannot read .*a\.npy"):
            RowFile(path)
    path.write_bytes(whole_file[:-1])
    with pytest.raises(DataError, match="cut off"):
        RowFile(path).read(90, 100)


def test_an_error_on_the_way_leaves_nothing(tmp_path: Path):
    def failing():
        yield np.arange(10, dtype=NUMBER)
        raise DataError("the source is gone")

    for write in (write_rows, lambda path, dtype, blocks: write_sorted(blocks, dtype, path, 2**20)):
        with pytest.raises(DataError, match="the source is gone"):
            write(tmp_path / "a.npy", NUMBER, failing())
        assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_one_sentence(tmp_path: Path):
    """A limit on the size of files stands for the disk: the write itself fails, here in a process of its own."""
    script = f"""
import numpy as np, resource, signal
from pathlib import Path
from data_pipeline.dedup.rows import write_rows, write_sorted
from data_pipeline.errors import DataError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
blocks = [np.arange(50_000, dtype="<u8")]
for write in (write_rows, lambda path, dtype, blocks: write_sorted(blocks, dtype, path, 2**20)):
    try:
        write(Path({str(tmp_path)!r}) / "a.npy", np.dtype("<u8"), blocks)
    except DataError as error:
        print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.count("cannot write") == 2 and done.stderr == ""
    assert list(tmp_path.iterdir()) == []
