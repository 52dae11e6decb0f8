"""Mutated files: only documents, broken records and DataError come out, from any start, within time and memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FAST = {
    "jsonl": 300, "jsonl.gz": 100, "jsonl.zst": 100, "json": 200, "csv": 200, "html": 300, "parquet": 300,
    "warc": 300, "warc.gz": 100, "arrow": 100,
}  # fmt: skip
ALL = [*FAST, "tsv", "txt", "txt.gz", "json.gz", "json.zst", "csv.gz", "csv.zst", "warc.zst", "parquet.gz", "arrow.zst"]


def fuzz(name: str, first: int, last: int, folder: Path) -> dict[str, int]:
    """Run some cases in a process of its own: what kills it (a crash, an abort, too much memory) kills no test run."""
    command = [sys.executable, "-m", "tests.data_pipeline.read_fuzz", name, str(first), str(last), str(folder)]
    seconds = 60 + (last - first) / 5
    child = subprocess.run(command, capture_output=True, text=True, timeout=seconds, cwd=Path(__file__).parents[2])
    assert child.returncode == 0, child.stderr[-2000:]
    return json.loads(child.stdout)


@pytest.mark.parametrize("name", FAST)
def test_some_hundred_mutations(tmp_path: Path, name: str):
    outcomes = fuzz(name, 0, FAST[name], tmp_path)
    assert outcomes["cases"] == FAST[name]
    assert outcomes.get("Document", 0) > 10  # the mutations leave something to read
    assert outcomes.get("Broken", 0) > 10 or name == "html"  # every sequence of bytes is a page


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_thousands_of_mutations(tmp_path: Path, name: str):
    """100,000 cases in all, half an hour on one core: pytest -m slow tests/data_pipeline/test_read_fuzz.py"""
    assert fuzz(name, 1000, 6000, tmp_path)["cases"] == 5000
