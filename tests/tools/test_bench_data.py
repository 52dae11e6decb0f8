"""`bench data`: what it measures is what it says."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from data_pipeline.execute import train_tokenizer_on
from launcher.errors import UserError
from tools.bench.data import measure_data

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer_on([ROOT / "data_pipeline/sample/zh.jsonl"], 500).save(folder)
    return folder


def test_every_stage_of_both_workloads_is_timed(tokenizer: Path, tmp_path: Path):
    shards, cleaned = measure_data(10, tokenizer, None, tmp_path)
    assert [row["workload"] for row in (shards, cleaned)] == ["shards", "cleaned"]
    assert 10 <= shards["megabytes"] < 10.5 and 1 <= cleaned["megabytes"] < 1.5
    assert list(shards["ours"]["stages"]) == ["scan", "tokenizer", "tokenize", "shards"]
    assert {"clean", "candidates", "confirm"} <= set(cleaned["ours"]["stages"])
    for row in (shards, cleaned):
        assert 0 < sum(row["ours"]["stages"].values()) <= row["ours"]["seconds"]
        rate = row["megabytes"] / row["ours"]["cpu_seconds"]
        assert row["ours"]["megabytes_per_cpu_second"] == pytest.approx(rate)
    assert not list(tmp_path.iterdir())


def test_an_opponent_that_is_not_there_is_told(tokenizer: Path, tmp_path: Path):
    for python, part in ((sys.executable, "No module named 'datatrove'"), ("/no/python", "cannot be started")):
        with pytest.raises(UserError, match=part):
            measure_data(10, tokenizer, python, tmp_path)


@pytest.mark.slow
def test_datatrove_makes_the_same_bytes(tmp_path: Path):
    """Needs MEGAMODEL_DATATROVE_PYTHON, an interpreter with datatrove[processing] and nltk; on a quiet machine."""
    python = os.environ.get("MEGAMODEL_DATATROVE_PYTHON")
    if not python:
        pytest.skip("MEGAMODEL_DATATROVE_PYTHON names no interpreter with datatrove")
    command = [
        sys.executable,
        "-m",
        "launcher",
        "bench",
        "data",
        "--against",
        "datatrove",
        "--python",
        python,
        "--json",
    ]
    done = subprocess.run([*command, "--megabytes", "30"], cwd=ROOT, capture_output=True, text=True, check=True)
    shards, cleaned = json.loads(done.stdout)["workloads"]
    assert shards["identical_bytes"]
    assert shards["times"] > 5 and cleaned["times"] > 2  # far below what a quiet machine gives at full size
