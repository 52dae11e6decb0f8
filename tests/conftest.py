"""Small real things that many tests need: token shards, a run configuration, and a way to start ranks."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

LLAMA = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 88,
    "max_position_embeddings": 64,
}
GPT2 = {
    "vocab_size": 320,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 64,
    "position_embedding": "learned",
    "norm": "layernorm",
    "activation": "gelu",
    "attention_bias": True,
    "mlp_bias": True,
    "tie_word_embeddings": True,
}


@pytest.fixture(scope="session")
def tiny_data(tmp_path_factory) -> Path:
    """A folder with a tokenizer and two shard sets, `train` and `validation`, from part of the sample corpus."""
    from data_pipeline.execute.tokenize import tokenize, train_tokenizer_on

    folder = tmp_path_factory.mktemp("data")
    for language in ("en", "zh"):
        lines = (ROOT / "data_pipeline" / "sample" / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()
        (folder / f"{language}.jsonl").write_text("\n".join(lines[:12]) + "\n", encoding="utf-8")
    tokenizer = train_tokenizer_on([folder / "en.jsonl"], vocab_size=320)
    tokenizer.save(folder / "tokenizer")
    tokenize([folder / "en.jsonl", folder / "zh.jsonl"], tokenizer, folder / "train")
    tokenize([folder / "zh.jsonl"], tokenizer, folder / "validation")
    return folder


@pytest.fixture
def tiny_run(tiny_data, tmp_path):
    """A function that writes a small run configuration and returns its path; keywords set groups' settings."""
    return functools.partial(write_run, tiny_data, tmp_path)


def write_run(shards: Path, folder: Path, model=LLAMA, **groups) -> Path:
    """Write a small run configuration over `tiny_data` into a folder, in which the run will lie; return its path."""
    config = {
        "run_dir": str(folder / "run"),
        "seed": 7,
        "model": model,
        "data": {
            "tokenizer": str(shards / "tokenizer"),
            "sources": [{"path": str(shards / "train")}],
            "validation": [{"path": str(shards / "validation")}],
        },
        "train": {
            "steps": 20,
            "global_batch_size": 8,
            "micro_batch_size": 2,
            "seq_len": 32,
            "validate_every_steps": 10,
            "validation_sequences": 10,
        },
        "optimizer": {"lr": 5e-3, "schedule": {"name": "cosine", "warmup_steps": 4}},
        "engine": {"name": "single", "device": "cpu"},
        "checkpoint": {"every_steps": 5, "keep": 3},
        "monitor": {"tensorboard": False},
    }
    for group, settings in groups.items():
        config[group] = {**config.get(group, {}), **settings} if isinstance(settings, dict) else settings
    path = folder / "run.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def start_training(config: Path, *overrides: str) -> "subprocess.Popen[str]":
    """`python -m launcher.train`, as a process of its own with one thread a rank."""
    command = [sys.executable, "-m", "launcher.train", str(config), *overrides]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_training(config: Path, *overrides: str, code: int = 0) -> str:
    """Train to the end in processes of their own; return the output. The exit code must be `code`."""
    process = start_training(config, *overrides)
    output = process.communicate(timeout=180)[0]
    assert process.returncode == code, output
    return output


def metrics_of(run: Path) -> list[dict]:
    """The metrics lines of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def events_of(run: Path, kind: str) -> list[dict]:
    """The events of one kind of a run."""
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [line for line in lines if line["event"] == kind]
