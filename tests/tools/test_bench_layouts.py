"""`bench layouts` and `bench start`: bytes are those that a calculation by hand gives, memory is what ranks hold."""

import json
import shlex
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml

from launcher.cli.main import main
from launcher.cluster.ranks import Ranks
from launcher.config import RunConfig
from launcher.engines import build_engine
from launcher.errors import CheckFailed
from launcher.yaml_config import load
from megamodel.parallel.mesh import Layout
from tests.conftest import LLAMA, ROOT
from tests.ranks import in_ranks
from tools.bench.layouts import run_ranks
from tools.bench.memory import PeakMemory
from tools.bench.rank import measure
from tools.bench.wire import WireCounter
from tools.verify.layouts import parse_layout

LAYERS, WIDTH, TOKENS, SEQUENCES, MICRO = 4, 32, 32, 8, 2
KV_WIDTH, QUERY_WIDTH = 16, 32
BLOCK = 2 * WIDTH * QUERY_WIDTH + 2 * WIDTH * KV_WIDTH + 3 * WIDTH * 88 + 2 * WIDTH
ROOT_UNIT = 2 * 320 * WIDTH + WIDTH
PARAMETERS = LAYERS * BLOCK + ROOT_UNIT
FP32 = 4
SCALARS = 8 + FP32
"""The sum of the gradient's squares in fp64, and the loss."""


def activations(ranks: int = 1) -> int:
    """Bytes of one micro-batch's hidden states, or of a rank's share of them."""
    return MICRO * TOKENS * WIDTH * FP32 // ranks


def both_ways(size: float) -> float:
    """What a rank of two sends in a gather and in a scatter-and-add of `size` bytes, or twice in one of them."""
    return 2 * size / 2


def sent(path: str, overrides: list[str]) -> str:
    """In a rank: what `bench layouts` counts, as JSON."""
    config = load(Path(path), RunConfig, overrides).value
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    engine = build_engine(config, ranks, eos_id=0)
    return json.dumps(measure(engine, PeakMemory(ranks.device), 1)["sent"])


def expected_by_hand() -> dict[str, dict[str, dict[str, float]]]:
    """By layout, axis and kind: bytes that rank 0 sends in a step of 8 sequences."""
    half = SEQUENCES // MICRO // 2  # micro-batches of each of two data ranks
    whole = SEQUENCES // MICRO
    gathers = LAYERS * 2 * BLOCK + ROOT_UNIT  # a block for its forward and its backward pass; the rest stays
    keys_and_values = 2 * MICRO * (TOKENS // 2) * KV_WIDTH * FP32
    exchanged = MICRO * (TOKENS // 2) * (QUERY_WIDTH + 2 * KV_WIDTH + QUERY_WIDTH) * FP32
    shards = {"all_reduce": SCALARS, "reduce_scatter": PARAMETERS * FP32 / 2}
    vocabulary = 3 * MICRO * TOKENS * FP32  # of each token: the largest logit, the sum, and the target's
    norms = (2 * LAYERS + 1) * WIDTH * FP32
    return {
        "ddp2": {"dp_replicate": {"all_reduce": PARAMETERS * FP32 + FP32}},
        "fsdp2": {"dp_shard": {"all_gather": half * gathers * FP32 / 2, **shards}},
        "zero1x2": {"dp_shard": {"all_reduce": PARAMETERS * FP32 + SCALARS, "all_gather": PARAMETERS * FP32 / 2}},
        "tp2": {
            "tp": {
                # Before and after attention and MLP, there and back; the embedding's sum; the head's input.
                "all_gather": whole * (4 * LAYERS + 2) * activations() / 2,
                "reduce_scatter": whole * (4 * LAYERS + 2) * activations() / 2,
                "all_reduce": SCALARS + norms + whole * vocabulary,
            }
        },
        "pp2-1f1b": {"pp": {"send": whole * activations(), "all_reduce": SCALARS}},
        "cp2-ring": {
            "cp": {
                # Forward once; backward once, and their gradients home over two hops.
                "send": whole * LAYERS * 4 * keys_and_values,
                "all_gather": whole * gathers * FP32 / 2,
                **shards,
            }
        },
        "cp2-ulysses": {
            "cp": {
                "all_to_all": whole * LAYERS * 2 * exchanged / 2,
                "all_gather": whole * gathers * FP32 / 2,
                **shards,
            }
        },
    }


@pytest.mark.parametrize(("layout", "expected"), expected_by_hand().items())
def test_bytes_are_those_counted_by_hand(tiny_run, layout, expected):
    path = tiny_run(model=LLAMA | {"num_hidden_layers": LAYERS})
    named = parse_layout(layout)
    counted = json.loads(in_ranks(sent, named.ranks, str(path), named.overrides)[0])
    assert {axis: {kind: row["bytes"] for kind, row in kinds.items()} for axis, kinds in counted.items()} == expected


def test_weights_that_stay_gathered_are_gathered_once(tiny_run):
    path = tiny_run(model=LLAMA | {"num_hidden_layers": LAYERS})
    overrides = [*parse_layout("fsdp2").overrides, "engine.reshard_after_forward=false"]
    counted = json.loads(in_ranks(sent, 2, str(path), overrides)[0])
    assert counted["dp_shard"]["all_gather"]["bytes"] == 2 * PARAMETERS * FP32 / 2


@pytest.mark.slow  # compiling takes most of a minute
def test_compiled_blocks_are_counted_too(tiny_run):
    path = tiny_run(model=LLAMA | {"num_hidden_layers": LAYERS})
    overrides = [*parse_layout("fsdp2").overrides, "engine.compile=true"]
    counted = json.loads(in_ranks(sent, 2, str(path), overrides)[0])
    expected = expected_by_hand()["fsdp2"]["dp_shard"]
    assert {kind: row["bytes"] for kind, row in counted["dp_shard"].items()} == expected


def collectives() -> str:
    """In a rank of four: each collective once, over 80 bytes whole."""
    layout = Layout(dp_shard=2, tp=2)
    mesh = layout.mesh("cpu")
    x, whole = torch.ones(10), torch.ones(20)
    with WireCounter(layout) as wire:
        dist.all_reduce(whole, group=mesh.get_group("tp"))
        dist.all_gather_into_tensor(whole, x, group=mesh.get_group("tp"))
        dist.all_gather([torch.empty(10) for _ in range(2)], x, group=mesh.get_group("dp_shard"))
        dist.reduce_scatter_tensor(x, whole, group=mesh.get_group("dp_shard"))
        dist.all_to_all_single(torch.empty(20), whole)
        dist.broadcast(whole, src=0)
        dist.barrier()
    return json.dumps(wire.table())


def test_each_collective_has_its_formula_and_its_axis():
    table = json.loads(in_ranks(collectives, 4)[0])
    found = {(axis, kind): row["bytes"] for axis, kinds in table.items() for kind, row in kinds.items()}
    assert found == {
        ("tp", "all_reduce"): 80,
        ("tp", "all_gather"): 40,
        ("dp_shard", "all_gather"): 40,
        ("dp_shard", "reduce_scatter"): 40,
        ("dp_shard+tp", "all_to_all"): 60,
        ("dp_shard+tp", "broadcast"): 60,
    }


def run_command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, command: str) -> str:
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    return capfd.readouterr().out


def test_layouts_are_measured_beside_one_process(tiny_run, monkeypatch, capfd):
    path = tiny_run()
    first = f"megamodel bench layouts {path} --layouts fsdp2,tp3 --rounds 1"
    answer = json.loads(run_command(monkeypatch, capfd, f"{first} --json"))
    single, fsdp, refused = answer["layouts"]
    assert answer["command"] == first
    assert single["layout"] == "single" and single["ratio"] == 1 and single["sent"] == {}
    assert fsdp["ratio"] == pytest.approx(fsdp["milliseconds"] / single["milliseconds"])
    assert 0 < fsdp["peak_bytes"] < 2**28 and set(fsdp["sent"]) == {"dp_shard"}
    assert "3 does not divide model.num_attention_heads=4" in refused["refused"]


def trace(monkeypatch, capfd, path: Path, *options: str) -> dict:
    return json.loads(run_command(monkeypatch, capfd, shlex.join(["megamodel", "bench", "start", str(path), *options])))


LARGE = {
    "base": str(ROOT / "configs" / "models" / "llama3-70b.yaml"),
    "run_dir": "nowhere",
    "data": {"tokenizer": "none", "sources": [{"path": "none"}]},
    "train": {"steps": 1, "global_batch_size": 1024, "micro_batch_size": 1, "seq_len": 8192},
    "optimizer": {"lr": 1e-4},
    "engine": {"name": "fsdp", "device": "cpu"},
}


@pytest.mark.parametrize("cuts", [[], ["parallel.tp=8", "parallel.pp=8", "train.global_batch_size=128"]])
def test_one_of_1024_ranks_starts_the_70b_model_with_its_shard_alone(tmp_path, monkeypatch, capfd, cuts):
    path = tmp_path / "large.yaml"
    path.write_text(yaml.safe_dump(LARGE))
    found = trace(monkeypatch, capfd, path, *cuts, "--simulate", "1024", "--rank", "1000", "--json")
    share = 70_553_706_496 * FP32 / 1024
    assert found["parameter_bytes"] == pytest.approx(share, rel=0.01 if not cuts else 0.25)  # stages differ
    assert found["gradient_bytes"] == found["parameter_bytes"] and found["moment_bytes"] == 2 * found["gradient_bytes"]
    assert found["largest_parameter_bytes"] == 128256 * 8192 * FP32
    # The shard, and beside it what is being drawn of one parameter: less than a fifth of the shard itself.
    assert found["parameter_bytes"] < found["peak_bytes"] < 1.2 * found["parameter_bytes"]


def test_a_traced_rank_holds_what_a_real_one_does(tiny_run, monkeypatch, capfd):
    path = tiny_run(engine={"name": "fsdp", "ranks": 2})
    real = trace(monkeypatch, capfd, path, "--json")
    traced = trace(monkeypatch, capfd, path, "--simulate", "2", "--json")
    names = ("parameter_bytes", "moment_bytes", "largest_parameter_bytes")
    assert [real["ranks"][0][name] for name in names] == [traced[name] for name in names]
    assert real["total_bytes"] > sum(rank["parameter_bytes"] for rank in real["ranks"])


def test_a_start_takes_its_weights_and_one_parameter(tiny_run, monkeypatch, capfd):
    """90M parameters, 360 MB, on two ranks: the ranks never hold much more than their halves."""
    model = {"vocab_size": 8192, "hidden_size": 1024, "num_hidden_layers": 6, "intermediate_size": 2816}
    path = tiny_run(model=LLAMA | model, engine={"name": "fsdp", "ranks": 2})
    for rank in trace(monkeypatch, capfd, path, "--json")["ranks"]:
        one = rank["largest_parameter_bytes"]
        assert rank["parameter_bytes"] > 150e6
        modules = 64e6  # that building imports
        assert rank["peak_bytes"] < rank["parameter_bytes"] + one + modules, "more than a shard and one parameter"


def test_a_rank_that_fails_is_told(tiny_run, tmp_path):
    with pytest.raises(CheckFailed, match="1 ranks could not be measured") as told:
        run_ranks("step", 1, tiny_run(), ["engine.device=cuda"], 1, tmp_path)
    assert "torch sees no GPU" in str(told.value)
