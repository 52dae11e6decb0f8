"""Truncated, flipped, hostile: whatever token files hold, a sentence comes of it, soon, and within little memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.tokenizer import Tokenizer

FORMATS = ["megatron", "datatrove", "dolma", "mds", "litdata", "ours"]
SHARED_MEMORY = Path("/dev/shm")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """In memory where that is possible: every case is flushed to the disk."""
    if not os.access(SHARED_MEMORY, os.W_OK):
        return tmp_path
    return SHARED_MEMORY / f"fuzz-{os.getpid()}-{tmp_path.name}"


def fuzz(format: str, cases: int, seed: int, folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> dict[str, int]:
    tokenizer.save(tmp_path / "tokenizer")
    arguments = [format, str(cases), str(seed), str(folder), str(tmp_path / "tokenizer")]
    command = [sys.executable, "-m", "tests.data_pipeline.fuzz_formats", *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=60 + cases, cwd=Path(__file__).parents[2]
        )
    finally:
        subprocess.run(["rm", "-rf", str(folder)], check=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("format", FORMATS)
def test_hundreds_of_damaged_files(format: str, folder: Path, tokenizer: Tokenizer, tmp_path: Path):
    outcomes = fuzz(format, 300, 0, folder, tokenizer, tmp_path)
    assert outcomes["refused"] > 100 and sum(outcomes.values()) == 300


@pytest.mark.slow
@pytest.mark.parametrize("format", FORMATS)
def test_tens_of_thousands_of_damaged_files(format: str, folder: Path, tokenizer: Tokenizer, tmp_path: Path):
    """About five minutes: `pytest -m slow tests/data_pipeline/test_formats_fuzz.py`."""
    outcomes = fuzz(format, 20_000, 1, folder, tokenizer, tmp_path)
    assert sum(outcomes.values()) == 20_000
