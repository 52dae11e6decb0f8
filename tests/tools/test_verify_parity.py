"""`verify parity`: what a name of a layout selects; the command passes the honest and fails the mistaken."""

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from launcher.config import RunConfig, TrainConfig
from launcher.errors import CheckFailed, UserError
from launcher.yaml_config import load
from tests.conftest import LLAMA, ROOT
from tools.bench.layouts import problems
from tools.verify.compare import TOLERANCES, Differences, Furthest, compare_runs
from tools.verify.layouts import DEFAULT, ON_ONE_RANK, default_layouts, parse_layout, parse_layouts
from tools.verify.parity import ParityCheck, Row

FP32 = TOLERANCES[torch.float32]


@pytest.mark.parametrize(
    ("name", "ranks", "data_ranks", "settings"),
    [
        ("single", 1, 1, {"engine.name": "single"}),
        ("ddp4", 4, 4, {"engine.name": "ddp"}),
        ("zero2x4", 4, 4, {"engine.name": "deepspeed", "engine.zero_stage": "2"}),
        ("zero1x2-offload", 2, 2, {"engine.deepspeed.offload_optimizer": "cpu"}),
        ("zero3x4-offload", 4, 4, {"engine.deepspeed.offload_parameters": "cpu"}),
        ("hsdp2x3", 6, 6, {"parallel.dp_replicate": "2", "parallel.dp_shard": "3"}),
        ("tp4-cp2", 8, 1, {"parallel.tp": "4", "parallel.cp": "2", "parallel.cp_method": "ring"}),
        ("fsdp2-cp2-ulysses", 4, 2, {"parallel.cp_method": "ulysses", "parallel.dp_shard": "2"}),
        ("pp4-zbv-tp2-hsdp2x2", 32, 4, {"parallel.pp": "4", "parallel.pp_schedule": "zbv", "parallel.tp": "2"}),
        ("pp2-interleaved", 2, 1, {"parallel.pp_schedule": "interleaved_1f1b", "parallel.dp_shard": "1"}),
    ],
)
def test_a_name_selects_a_layout(name, ranks, data_ranks, settings):
    layout = parse_layout(name)
    assert (layout.ranks, layout.data_ranks) == (ranks, data_ranks)
    assert settings.items() <= layout.settings.items()


@pytest.mark.parametrize(
    "name", ["tp", "tp0", "tp2-", "-tp2", "fsdp2 tp2", "pp2-ring", "zero4x2", "ddp2-tp2", "Single"]
)
def test_a_wrong_name_is_explained(name):
    with pytest.raises(UserError, match=r"there is no layout .*; a layout is single, ddpN"):
        parse_layouts(f"single,{name}")


def test_a_cut_named_twice_and_no_name_at_all_are_told():
    with pytest.raises(UserError, match="names one cut twice"):
        parse_layouts("fsdp2-hsdp2x2")
    with pytest.raises(UserError, match="--layouts names none"):
        parse_layouts(" , ")
    assert [layout.name for layout in parse_layouts("tp2, ddp2,tp2")] == ["tp2", "ddp2"]


def test_a_machine_is_asked_for_no_more_ranks_than_it_has():
    assert [layout.name for layout in default_layouts(8)] == DEFAULT
    assert {layout.ranks for layout in default_layouts(2)} == {1, 2}
    assert [layout.name for layout in default_layouts(1)] == list(ON_ONE_RANK)


def test_nothing_of_the_configurations_own_layout_is_left(tiny_run):
    own = {"tp": 2, "pp": 2, "pp_schedule": "interleaved_1f1b", "cp": 2, "cp_method": "ulysses", "dp_replicate": 2}
    engine = {"name": "deepspeed", "zero_stage": 3, "ranks": 16, "deepspeed": {"offload_optimizer": "cpu"}}
    path = tiny_run(model=LLAMA | {"num_hidden_layers": 4}, engine=engine, parallel=own)
    for layout in map(parse_layout, [*DEFAULT, *ON_ONE_RANK]):
        config = load(path, RunConfig, layout.overrides).value
        micro = layout.micro_batch_size(config.train)
        config = load(path, RunConfig, [*layout.overrides, f"train.micro_batch_size={micro}"]).value
        assert not list(problems(config, layout.ranks)), layout.name
        assert config.engine.ranks == layout.ranks


@pytest.mark.parametrize(
    ("layout", "batch", "micro", "chosen"),
    [
        ("single", 8, 4, 4),
        ("single", 8, 3, 2),  # 3 does not divide 8
        ("fsdp4", 8, 4, 2),
        ("pp2-1f1b", 8, 4, 4),
        ("pp2-interleaved", 8, 4, 2),  # four stages want four micro-batches
        ("pp2-zbv-fsdp2", 8, 4, 1),
        ("fsdp3", 8, 4, 4),  # no size does: the product refuses, with its own reason
    ],
)
def test_the_micro_batch_gives_every_rank_work(layout, batch, micro, chosen):
    train = TrainConfig(steps=1, global_batch_size=batch, micro_batch_size=micro, seq_len=8)
    assert parse_layout(layout).micro_batch_size(train) == chosen


SAME = Differences(True, True, [1.0], [1.0], 1e-6, 1e-6, Furthest(1e-6, "a"), Furthest(1e-6, "exp_avg/a"), [])


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"same_start": False}, "other starting weights"),
        ({"same_samples": False}, "other samples"),
        ({"loss": 2e-5}, "loss differs by 2.0e-05"),
        ({"loss": math.nan}, "loss differs by nan"),
        ({"grad_norm": 1e-3}, "gradient norm differs"),
        ({"weights": Furthest(math.inf, "a")}, "weights (a) differs by inf"),
        ({"moments": Furthest(1.0, "exp_avg/a")}, "moments (exp_avg/a) differs"),
    ],
)
def test_every_difference_is_a_fault(change, fault):
    found = Differences(**(vars(SAME) | change)).faults(FP32)
    assert found == [] if fault is None else found[0].startswith(fault)


def test_what_was_asked_for_must_not_be_refused(tiny_run, tmp_path):
    path = tiny_run()
    rows = [Row("ddp2", 2, 2, "same", "", SAME), Row("tp3", 3, 2, "refused", "3 does not divide", None)]
    config = load(path, RunConfig).value
    assert ParityCheck(path, config, [], tmp_path / "a").passed(rows)
    assert not ParityCheck(path, config, [], tmp_path / "a", [parse_layout("tp3")]).passed(rows)
    assert not ParityCheck(path, config, [], tmp_path / "a").passed([Row("ddp2", 2, 2, "failed", "it crashed", None)])
    with pytest.raises(UserError, match=r"train.steps=20 is fewer than the 30 to compare"):
        ParityCheck(path, config, [], tmp_path / "a", steps=30)
    with pytest.raises(CheckFailed, match="0 steps were made instead of 3"):
        compare_runs(tmp_path / "nothing", tmp_path / "nothing", 3)


def verify(folder: Path, config: Path, *options: str) -> tuple[int, list[dict], str]:
    """Run the command in a folder that holds the packages; return its exit code, its rows and what it said."""
    done = subprocess.run(
        [sys.executable, "-m", "launcher", "verify", "parity", str(config), *options, "--json"],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.returncode, json.loads(done.stdout or "[]"), done.stderr


def test_the_command_passes_what_is_the_same(tiny_run, tmp_path):
    config = tiny_run(train={"micro_batch_size": 8})
    code, rows, said = verify(ROOT, config, "--layouts", "ddp2", "--steps", "3")
    assert code == 0, said
    assert "1/2 reference: 3 steps on 1 rank\n2/2 ddp2: 3 steps on 2 ranks" in said
    (row,) = rows
    assert (row["layout"], row["verdict"], row["micro_batch_size"]) == ("ddp2", "same", 4)
    found = row["differences"]
    assert found["same_start"] and found["same_samples"] and found["loss"] <= 1e-5
    assert len(found["first_losses"]) == len(found["first_grad_norms"]) == 3
    assert not list((tmp_path / "run.verify-parity" / "ddp2").glob("checkpoints/*")), "checkpoints of the same are kept"


def test_the_command_fails_for_a_mistake_in_the_code(tiny_run, tmp_path):
    copy = tmp_path / "copy"
    for package in ("data_pipeline", "megamodel", "launcher", "tools"):
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    file = copy / "megamodel" / "parallel" / "apply.py"
    right, wrong = "set_gradient_divide_factor(1.0)", "set_gradient_divide_factor(2.0)"
    assert right in file.read_text()
    file.write_text(file.read_text().replace(right, wrong))
    code, rows, said = verify(
        copy, tiny_run(), "--layouts", "fsdp2,tp3", "--steps", "3", "--out", str(tmp_path / "out")
    )
    assert code == 1
    assert [row["verdict"] for row in rows] == ["different", "refused"]
    assert "gradient norm differs by 5.0e-01" in rows[0]["reason"]
    assert "3 does not divide model.num_attention_heads=4" in rows[1]["reason"]
    assert f"everything to look at is in {tmp_path / 'out'}" in said
    assert (tmp_path / "out" / "fsdp2" / "checkpoints").is_dir()
