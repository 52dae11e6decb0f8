"""Promise 2: every layout is the same training as one process."""

import functools

import pytest
import torch

from launcher.config import RunConfig
from launcher.yaml_config import load
from tests.conftest import GPT2, LLAMA, write_run
from tests.ranks import train_in_ranks
from tools.verify.compare import TOLERANCES, compare_runs
from tools.verify.layouts import DEFAULT, parse_layout
from tools.verify.parity import comparable

STEPS = 10
FOUR = {"num_hidden_layers": 4}
MODELS = {
    "llama": LLAMA | FOUR,
    "gpt2": GPT2 | FOUR,
    "llama-tied": LLAMA | FOUR | {"tie_word_embeddings": True},
    "gpt2-untied": GPT2 | FOUR | {"tie_word_embeddings": False},
}
"""Grouped heads in the Llamas; layers for two stages on each of two ranks."""

CASES = [(model, layout) for model in ("llama", "gpt2") for layout in DEFAULT if layout != "single"]
CASES += [
    (model, layout)
    for model in ("llama-tied", "gpt2-untied")
    for layout in ("fsdp2", "zero3x2", "tp2", "pp2-1f1b", "cp2-ring")
]


@pytest.fixture(scope="module")
def reference(tiny_data, tmp_path_factory):
    """A function from a model's name to its configuration, trained by one process into `run` beside it, once."""

    @functools.cache
    def trained(model):
        config = write_run(tiny_data, tmp_path_factory.mktemp(model), MODELS[model])
        train_in_ranks(config, *comparable(STEPS))
        return config

    return trained


def train_as(config, layout, folder, planted=None):
    """Train in a layout into a folder, as `verify parity` does, but in ranks that start at once."""
    layout = parse_layout(layout)
    micro = f"train.micro_batch_size={layout.micro_batch_size(load(config, RunConfig).value.train)}"
    overrides = [*comparable(STEPS), *layout.overrides, micro, f"run_dir={folder}"]
    train_in_ranks(config, *overrides, ranks=layout.ranks, planted=planted)


@pytest.mark.parametrize(("model", "layout"), CASES)
def test_a_layout_is_the_same_training(reference, tmp_path, model, layout):
    config = reference(model)
    try:
        train_as(config, layout, tmp_path)
    except AssertionError as error:
        if "error:" in str(error):
            pytest.skip(str(error)[:200])
        raise
    found = compare_runs(config.parent / "run", tmp_path, STEPS, TOLERANCES[torch.float32])
    print(layout, found)
    assert not found.faults(TOLERANCES[torch.float32]), found
    assert found.same_start and found.same_samples and found.loss <= 1e-5
