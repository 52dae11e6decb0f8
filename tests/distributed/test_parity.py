"""Promise 2: every layout is the same training as one process."""

import functools

import pytest
import torch

from launcher.config import RunConfig
from launcher.yaml_config import load
from tests.conftest import GPT2, LLAMA, write_run
from tests.distributed import planted
from tests.ranks import train_in_ranks
from tools.verify.compare import TOLERANCES, compare_runs
from tools.verify.layouts import DEFAULT, parse_layout
from tools.verify.parity import comparable

STEPS = 10
FOUR = {"num_hidden_layers": 4}
RUNS = {
    "llama": {"model": LLAMA | FOUR},
    "gpt2": {"model": GPT2 | FOUR},
    "llama-tied": {"model": LLAMA | FOUR | {"tie_word_embeddings": True}},
    "gpt2-untied": {"model": GPT2 | FOUR | {"tie_word_embeddings": False}},
    "llama-documents": {"model": LLAMA | FOUR, "data": {"separate_documents": True}},
}
"""Grouped heads in the Llamas; layers for two stages on each of two ranks."""

OF_EACH_KIND = ("fsdp2", "zero3x2", "tp2", "pp2-1f1b", "cp2-ring")
CASES = [
    *((run, layout) for run in ("llama", "gpt2") for layout in DEFAULT if layout != "single"),
    *((run, layout) for run in ("llama-tied", "gpt2-untied", "llama-documents") for layout in OF_EACH_KIND),
    ("llama-documents", "cp2-ulysses"),
    *(("llama", layout) for layout in ("fsdp1", "zero1x1", "cp2-ring-tp2", "pp2-cp2-ulysses")),
]


@pytest.fixture(scope="module")
def reference(tiny_data, tmp_path_factory):
    """A function from a name in RUNS to its configuration, trained by one process into `run` beside it, once."""

    @functools.cache
    def trained(name):
        config = write_run(tiny_data, tmp_path_factory.mktemp(name), **RUNS[name])
        train_in_ranks(config, *comparable(STEPS))
        return config

    return trained


def train_as(config, layout, folder, planted=None):
    """Train in a layout into a folder, as `verify parity` does, but in ranks that start at once."""
    layout = parse_layout(layout)
    micro = f"train.micro_batch_size={layout.micro_batch_size(load(config, RunConfig).value.train)}"
    overrides = [*comparable(STEPS), *layout.overrides, micro, f"run_dir={folder}"]
    train_in_ranks(config, *overrides, ranks=layout.ranks, planted=planted)


@pytest.mark.parametrize(("run", "layout"), CASES)
def test_a_layout_is_the_same_training(reference, tmp_path, run, layout):
    config = reference(run)
    train_as(config, layout, tmp_path)
    found = compare_runs(config.parent / "run", tmp_path, STEPS)
    # The figures that the promise names, and all that `verify parity` looks at.
    assert found.same_start and found.same_samples and found.loss <= 1e-5, found
    assert not found.faults(TOLERANCES[torch.float32]), found


@pytest.mark.parametrize(
    ("mistake", "run", "layout", "seen_in"),
    [
        (planted.gradients_averaged_twice, "llama", "fsdp2", "gradient norm"),
        (planted.ddp_average_not_undone, "llama", "ddp2", "gradient norm"),
        (planted.norm_gradient_not_reduced, "llama", "tp2", "weights (layers.2.input_layernorm.weight)"),
        (planted.rotary_counts_from_the_shard, "llama", "cp2-ring", "loss"),
        (planted.clip_counts_copies, "llama", "tp2", "gradient norm"),
        (planted.seed_of_the_rank, "llama", "fsdp2", "other starting weights"),
        (planted.tied_gradient_forgotten, "gpt2", "pp2-1f1b", "weights (embed_tokens.weight)"),
        (planted.decay_by_local_shape, "gpt2", "fsdp2", "weights"),
        (planted.last_micro_batch_lost, "llama", "fsdp2", "loss"),
        (planted.everyone_reads_the_first_share, "llama", "ddp2", "loss"),
    ],
)
def test_a_mistake_in_a_layout_is_seen(reference, tmp_path, mistake, run, layout, seen_in):
    config = reference(run)
    train_as(config, layout, tmp_path, mistake)
    allowed = TOLERANCES[torch.float32]
    faults = compare_runs(config.parent / "run", tmp_path, STEPS).faults(allowed)
    assert any(fault.startswith(seen_in) for fault in faults), faults
