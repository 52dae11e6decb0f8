"""Promise 3, whole: saved in one engine and layout, continued in any other, the same training goes on."""

import functools
import os
import shutil

import pytest

from launcher.config import RunConfig
from launcher.yaml_config import load
from megamodel.checkpoint import checkpoint_name, read_manifest
from tests.conftest import GPT2, LLAMA, events_of, metrics_of, write_run
from tests.ranks import train_in_ranks
from tools.verify.layouts import parse_layout

LAYOUTS = ("single", "fsdp2", "fsdp4", "zero1x2", "zero2x2", "zero3x2", "tp2", "pp2", "cp2")
MODELS = {"llama": LLAMA, "gpt2": GPT2}
"""Untied with grouped heads, and tied with biases and learned positions."""
SAVED, LAST = 5, 10

EVERY_RUN = (1, 4)
"""How far apart in LAYOUTS: with these pairs each layout is twice a source and twice a target; the others are slow."""


def _pairs():
    for model in MODELS:
        for place, source in enumerate(LAYOUTS):
            for distance in range(len(LAYOUTS)):
                marks = [] if model == "llama" and distance in EVERY_RUN else [pytest.mark.slow]
                yield pytest.param(model, source, LAYOUTS[(place + distance) % len(LAYOUTS)], marks=marks)


def _train(config, layout, *overrides):
    layout = parse_layout(layout)
    micro = f"train.micro_batch_size={layout.micro_batch_size(load(config, RunConfig).value.train)}"
    train_in_ranks(config, *layout.overrides, micro, "data.validation=[]", *overrides, ranks=layout.ranks)


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    """A function from a model and a layout to the folder of its run, trained to SAVED or, by one process, to LAST."""

    @functools.cache
    def config_of(model):
        return write_run(tiny_data, tmp_path_factory.mktemp(model), MODELS[model])

    @functools.cache
    def run(model, layout, last):
        folder = config_of(model).parent / f"{layout}-{last}"
        _train(config_of(model), layout, f"run_dir={folder}", f"train.stop_at_step={last}")
        return config_of(model), folder

    return run


@pytest.mark.parametrize(("model", "source", "target"), list(_pairs()))
def test_saved_in_one_layout_continued_in_another(trained, tmp_path, model, source, target):
    config, undisturbed = trained(model, "single", LAST)
    _, saved = trained(model, source, SAVED)
    name = f"checkpoints/{checkpoint_name(SAVED)}"
    shutil.copytree(saved / name, tmp_path / "run" / name, copy_function=os.link)
    _train(config, target, f"run_dir={tmp_path / 'run'}", f"train.stop_at_step={LAST}")
    assert [event["step"] for event in events_of(tmp_path / "run", "resumed")] == [SAVED]
    ours, theirs = metrics_of(tmp_path / "run"), metrics_of(undisturbed)[SAVED:]
    assert [line["step"] for line in ours] == list(range(SAVED + 1, LAST + 1))
    assert [line["samples_digest"] for line in ours] == [line["samples_digest"] for line in theirs]
    for our, their in zip(ours, theirs, strict=True):
        assert our["loss"] == pytest.approx(their["loss"], rel=1e-5), our["step"]
    assert read_manifest(tmp_path / "run" / "checkpoints" / checkpoint_name(LAST)).optimizer_updates == LAST
