"""Each stage stays within its memory on a corpus larger than that: measured as the growth of a process of its own."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

MEMORY = 2**24
SLACK = 6 * 2**20
"""What the allocator and the libraries may take beside it."""
DOCUMENTS = 1_800_000
"""56 bytes each in the runs below: 100 MB."""

PREFIX = f"""
import sys
from pathlib import Path
import numpy as np
from data_pipeline.dedup.confirm import confirm
from data_pipeline.dedup.exact import find_exact
from data_pipeline.dedup.near import find_candidates
from data_pipeline.dedup.runs import unite, write_runs
from data_pipeline.dedup.settings import NearDuplicates
from data_pipeline.dedup.minhash import band_hashes
band_hashes(["some words to load all tables with", "and more"], NearDuplicates())
folder, memory = Path(sys.argv[1]), {MEMORY}
runs = [folder / str(task) for task in range(3)]
def resident(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(what)))
Path("/proc/self/clear_refs").write_text("5")  # the peak is from now on
before = resident("VmRSS")
"""
SUFFIX = """
print(resident("VmHWM") - before)
"""


def growth(folder: Path, script: str) -> int:
    """Run the script in a new process; return by how many bytes its resident memory grew at most."""
    command = [sys.executable, "-c", PREFIX + script + SUFFIX, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout) * 1024


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Hashes of three tasks. A third of all documents has one key and, in the first of two bands, one bucket."""
    folder = tmp_path_factory.mktemp("memory")
    generator = np.random.default_rng(1)
    for task in range(3):
        (folder / str(task)).mkdir()
        for name in ("keys.raw", "bands.raw"):
            hashes = generator.integers(0, 2**64, (DOCUMENTS // 3, 2), np.uint64)
            hashes[::3, 0] = 2**64 - 1
            if name == "keys.raw":
                hashes[::3, 1] = 0
            (folder / str(task) / name).write_bytes(hashes.astype("<u8").tobytes())
    grown = growth(folder, "for n, f in enumerate(runs): write_runs(f, n, f / 'keys.raw', f / 'bands.raw', 2, memory)")
    assert grown < MEMORY + SLACK
    assert not list(folder.glob("*/*.sorting"))
    return folder


def test_runs_are_sorted_in_bounded_memory(corpus: Path):
    for task in range(3):
        keys, bands = (np.load(corpus / str(task) / name) for name in ("keys.npy", "bands.npy"))
        assert len(keys) == DOCUMENTS // 3 and len(bands) == 2 * DOCUMENTS // 3
        np.testing.assert_array_equal(np.sort(keys["number"]), np.arange(DOCUMENTS // 3) + (task << 32))
        for band in np.split(bands, 2):
            assert (band["hash"][1:] >= band["hash"][:-1]).all()


def test_a_key_of_more_documents_than_memory_holds(corpus: Path):
    grown = growth(corpus, "assert find_exact(runs, 0, 1, memory, folder / 'exact.npy') == 599_999")
    assert grown < MEMORY + SLACK
    dropped = np.load(corpus / "exact.npy")
    assert (dropped % 2**32 % 3 == 0).all() and 0 not in dropped


def test_a_bucket_of_more_documents_than_memory_holds(corpus: Path):
    grown = growth(corpus, "find_candidates(runs, 2, 0, 0, 1, None, memory, folder / 'edges.npy')")
    assert grown < MEMORY + SLACK
    edges = np.load(corpus / "edges.npy")
    assert len(edges) == 2 * DOCUMENTS // 3 - 3 and (edges["later"] > edges["earlier"]).all()
    assert (edges["earlier"] == 0).sum() == DOCUMENTS // 3 - 1


def test_ranges_are_found_without_reading_the_rest(corpus: Path):
    """A hundredth of the hashes of a band is read with a hundredth of the memory."""
    script = "assert find_candidates(runs, 2, 1, 7, 100, folder / 'exact.npy', memory, folder / 'some.npy') == 0"
    assert growth(corpus, script) < SLACK


TEXTS = """
class Texts:
    def read(self, numbers):
        for number in numbers.tolist():
            words = np.random.default_rng(number // 2).integers(0, 2**20, 3000)
            yield number, " ".join(map(str, words.tolist() + [number]))
pairs = np.empty(6000, [("later", "<u8"), ("earlier", "<u8")])
pairs["later"] = np.arange(6000) // 2 * 2 + 1
pairs["earlier"] = pairs["later"] - 1 - 3000 * (np.arange(6000) % 2 == 0) * (pairs["later"] > 3000)
np.save(folder / "pairs.npy", np.unique(pairs))
"""


def test_sets_of_shingles_of_more_than_memory_holds(tmp_path: Path):
    """3,000 documents of 3,000 shingles are 72 MB; every second is like the one before it, and like no other."""
    script = "confirm([folder / 'pairs.npy'], 0, 6000, Texts(), NearDuplicates(), memory, folder / 'near.npy')"
    assert growth(tmp_path, TEXTS + script) < MEMORY + SLACK
    found = np.load(tmp_path / "near.npy")
    np.testing.assert_array_equal(found["later"], np.arange(1, 6000, 2))
    np.testing.assert_array_equal(found["earlier"], np.arange(0, 6000, 2))
    assert (found["jaccard"] > 0.99).all()
