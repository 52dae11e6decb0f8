"""How tokens come off the disk: by map or by pread, never more of them than were asked for, and never a crash."""

import mmap
import os
import re
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.errors import DataError
from data_pipeline.shards import ShardSet, token_files, traffic
from data_pipeline.shards.traffic import Traffic
from tools.bench.random_shards import write_random_shards

LENGTH = 2049
SIZE = 64 << 20


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_random_shards(tmp_path_factory.mktemp("large"), SIZE)


def bin_of(prefix: Path) -> Path:
    return prefix.parent / "random_00000_text_document.bin"


def forget(path: Path) -> None:
    """Drop a file from memory; the test is skipped where that cannot be done."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            os.preadv(file.fileno(), [bytearray(1)], SIZE // 2, os.RWF_NOWAIT)
        except BlockingIOError:
            return
        except OSError as error:
            pytest.skip(f"this filesystem does not say what is in memory: {error}")
    pytest.skip("this filesystem keeps its files in memory")


def windows(count: int) -> list[int]:
    return (np.random.default_rng(0).permutation(SIZE // 2 // LENGTH)[:count] * LENGTH).tolist()


def test_what_lies_in_memory_is_mapped_and_what_does_not_is_not(prefix: Path):
    expected = np.fromfile(bin_of(prefix), "<u2")
    warm = ShardSet.open(prefix)
    found = warm.read(5, LENGTH)
    assert warm._files[0].mapped
    np.testing.assert_array_equal(found, expected[5 : 5 + LENGTH])
    del warm, expected
    forget(bin_of(prefix))
    cold = ShardSet.open(prefix)
    np.testing.assert_array_equal(cold.read(5, LENGTH), found)
    assert not cold._files[0].mapped


def test_a_mapped_file_that_leaves_memory_is_read_by_pread(prefix: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(token_files, "_LOOK_EVERY", 2)
    bin_of(prefix).read_bytes()
    shards = ShardSet.open(prefix)
    assert shards._files[0].mapped
    shards.will_need(0, 10)
    shards.will_need(0, 10)
    assert shards._files[0].mapped
    forget(bin_of(prefix))
    shards.will_need(0, 10)
    shards.will_need(0, 10)
    assert not shards._files[0].mapped
    assert len(shards.read(0, 10)) == 10


@pytest.mark.parametrize("mapped", [False, True])
def test_a_file_cut_short_while_it_is_read_is_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: bool):
    monkeypatch.setattr(token_files.TokenFile, "_in_memory", lambda self: mapped)
    prefix = write_random_shards(tmp_path, 100_000)
    shards = ShardSet.open(prefix)
    shards.read(0, 10)
    os.truncate(bin_of(prefix), 50_001)
    with pytest.raises(DataError, match=r"random_00000.*ends at byte 50,001: it was cut short"):
        shards.read(24_000, 2_000)


@pytest.fixture
def minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look often, and say something of few bytes."""
    monkeypatch.setattr(traffic, "_LOOK_EVERY", 1 << 20)
    monkeypatch.setattr(traffic, "_of_thread", type("", (), {"traffic": Traffic(seconds=0.0, least=1 << 19)})())


def test_the_reader_moves_hardly_more_than_it_asks_for(prefix: Path, minute: None, capfd: pytest.CaptureFixture[str]):
    forget(bin_of(prefix))
    shards = ShardSet.open(prefix)
    before = traffic._delivered()
    starts = windows(2000)
    for first in range(0, len(starts), 100):
        for start in starts[first : first + 100]:
            shards.will_need(start, LENGTH)
        for start in starts[first : first + 100]:
            shards.read(start, LENGTH)
    moved = traffic._delivered() - before
    asked = len(starts) * (2 * LENGTH + mmap.PAGESIZE)
    assert asked / 2 < moved < 1.3 * asked
    assert "warning" not in capfd.readouterr().err


def test_windows_far_shorter_than_a_page_are_told_with_what_was_asked(
    prefix: Path, minute: None, capfd: pytest.CaptureFixture[str]
):
    forget(bin_of(prefix))
    shards, asked = ShardSet.open(prefix), 0.0
    for start in windows(2000):
        shards.will_need(start, 64)
        shards.read(start, 64)
    told = capfd.readouterr().err
    for figures in re.findall(r"asked for (\S+) GB and the disk delivered (\S+) GB \((\S+)x", told):
        mine, moved, factor = map(float, figures)
        assert factor > 4 and factor == pytest.approx(moved / mine, rel=0.1)
        asked += mine
    assert 1e-4 < asked <= 2000 * 128 / 1e9


def test_read_ahead_that_nobody_asked_for_is_told_with_figures(
    prefix: Path, minute: None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    """The page cache dropped, the system's read-ahead left on: as a map without advice does it, for real."""

    def as_a_plain_map_does(self: token_files.TokenFile, out: np.ndarray, offset: int) -> int:
        view = plain[offset // 2 : offset // 2 + len(out)]
        out[:] = view
        return out.nbytes

    forget(bin_of(prefix))
    plain = np.memmap(bin_of(prefix), "<u2", mode="r")
    monkeypatch.setattr(token_files.TokenFile, "_pread", as_a_plain_map_does)
    shards = ShardSet.open(prefix)
    for start in windows(800):
        shards.read(start, LENGTH)
    told = capfd.readouterr().err
    assert "warning: the data loader asked for 0.0" in told, told
    asked, moved, factor = (float(number) for number in re.findall(r"([\d.e+-]+)(?: GB|x\))", told)[:3])
    assert factor > 1.5 and factor == pytest.approx(moved / asked, rel=0.1)
