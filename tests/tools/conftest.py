"""A short real training run of each family, for the tools that read what a run leaves."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from data_pipeline.execute.tokenize import tokenize
from data_pipeline.tokenizer import Tokenizer
from tests.conftest import GPT2, LLAMA, run_training
from tools.convert.export import Exported, export_hf

MODELS = {"llama": LLAMA | {"vocab_size": 384, "tie_word_embeddings": True}, "gpt2": GPT2, "llama-untied": LLAMA}
"""The first has 64 rows more than the tokenizer has tokens."""

LESSON = (
    "The owl and the pussy-cat went to sea in a beautiful pea-green boat; they took some honey, and plenty of money. "
)
"""What the runs learn by heart, so that what they generate is varied and decided."""


@pytest.fixture(scope="session")
def trained(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function from a name in MODELS to the folder of its run, trained once for all tests."""
    root = tmp_path_factory.mktemp("trained")
    (root / "lesson.txt").write_text(LESSON * 200)
    tokenize([root / "lesson.txt"], Tokenizer.load(tiny_data / "tokenizer"), root / "lesson")

    def run(name: str) -> Path:
        folder = root / name
        if not folder.exists():
            (root / f"{name}.yaml").write_text(yaml.safe_dump(_settings(folder, tiny_data / "tokenizer", MODELS[name])))
            run_training(root / f"{name}.yaml")
        return folder

    return run


@pytest.fixture(scope="session")
def exported(trained: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """A function from a name in MODELS to what exporting its run gave, done once for all tests."""
    root = tmp_path_factory.mktemp("exported")
    return functools.cache(lambda name: export_hf(trained(name), root / "deep" / name))


def _settings(run_dir: Path, tokenizer: Path, model: dict) -> dict:
    return {
        "run_dir": str(run_dir),
        "seed": 3,
        "model": model,
        "data": {"tokenizer": str(tokenizer), "sources": [{"path": str(run_dir.with_name("lesson"))}]},
        "train": {"steps": 60, "global_batch_size": 8, "micro_batch_size": 8, "seq_len": 64},
        "optimizer": {"lr": 1e-2},
        "engine": {"name": "single", "device": "cpu"},
        "checkpoint": {"every_steps": 30},
        "monitor": {"tensorboard": False},
    }
