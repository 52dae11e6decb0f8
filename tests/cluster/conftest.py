"""A Slurm of the tests' own, and corpora that are prepared on it."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.cluster.slurm_daemons import slurm, why_not

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "data_pipeline" / "sample"


@pytest.fixture(scope="session")
def cluster() -> Iterator[dict[str, str]]:
    """The environment of a running Slurm of two nodes with two cores each."""
    if reason := why_not():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory() as folder, slurm(Path(folder)) as environment:
        yield environment


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five files, each a task, with near duplicates and a record that cannot be read."""
    folder = tmp_path_factory.mktemp("corpus")
    lines = [line for name in ("en", "zh") for line in (SAMPLE / f"{name}.jsonl").read_text("utf-8").splitlines()[:40]]
    rows = [{**json.loads(line), "text": json.loads(line)["text"][:4000]} for line in lines]
    rows += [{**row, "id": f"copy-{row['id']}", "text": row["text"] + " The end."} for row in rows[::3]]
    for number in range(5):
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[number::5])
        (folder / f"{number}.jsonl").write_text(text, encoding="utf-8")
    with (folder / "4.jsonl").open("a") as file:
        file.write("{broken\n")
    return folder


def write_config(corpus: Path, folder: Path, **changes) -> Path:
    """A configuration that prepares a corpus into FOLDER/out."""
    settings = {
        "out": str(folder / "out"),
        "sources": [{"kind": "files", "files": [str(corpus / "*.jsonl")]}],
        "deduplicate": {"near": {}},
        "tokenizer": {"kind": "train", "vocab_size": 400},
        "validation_fraction": 0.2,
        "execution": {"workers": 1, "bytes_per_task": 1},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({**settings, **changes}))
    return path


def prepare(config: Path, *arguments: str, environment: dict[str, str] | None = None, code: int = 0) -> str:
    """`megamodel data prepare`, in a folder that is not the repository's; returns all it says."""
    command = [sys.executable, "-m", "launcher", "data", "prepare", str(config), *arguments]
    done = subprocess.run(
        command,
        cwd=config.parent,
        env={**(environment or os.environ), "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == code and "Traceback" not in done.stdout, done.stdout
    return done.stdout


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
