"""`bench step`: the figures follow from each other, the opponent makes the same steps, and ours are no slower."""

import json
import shlex
import sys
from pathlib import Path

import pytest

from launcher.cli.main import main
from launcher.config import RunConfig
from launcher.errors import CheckFailed, UserError
from launcher.yaml_config import load
from megamodel.errors import ModelError
from tests.conftest import GPT2, LLAMA, ROOT
from tools.bench import transformers_step
from tools.bench.step import measure_step


def config_of(path: Path) -> RunConfig:
    return load(path, RunConfig).value


@pytest.mark.parametrize("model", [LLAMA, GPT2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_transformers_makes_the_same_steps(tiny_run, model: dict, precision: str) -> None:
    path = tiny_run(model=model, engine={"precision": precision})
    result = measure_step(config_of(path), rounds=3, against_transformers=True)
    assert result["transformers"]["largest_loss_difference"] < (1e-5 if precision == "fp32" else 2e-2)
    assert result["micro_batches"] == 4 and result["micro_batch_size"] == 2
    seconds = result["milliseconds_per_step"] / 1e3
    assert result["tokens_per_second"] * seconds == pytest.approx(8 * 32)
    assert result["achieved_flops"] == pytest.approx(result["tokens_per_second"] * result["flops_per_token"])
    assert 0 < result["share_of_matmul"] < 1 and result["mfu"] is None


def test_a_rank_measures_its_share(tiny_run) -> None:
    path = tiny_run(engine={"name": "fsdp", "ranks": 2})
    assert measure_step(config_of(path), rounds=1)["micro_batches"] == 2


def test_other_steps_are_no_opponent(tiny_run, monkeypatch: pytest.MonkeyPatch) -> None:
    right = transformers_step._initial_weights
    monkeypatch.setattr(
        transformers_step, "_initial_weights", lambda config: right(config.model_copy(update={"seed": 8}))
    )
    with pytest.raises(CheckFailed, match="does not make the same steps"):
        measure_step(config_of(tiny_run()), rounds=1, against_transformers=True)


def test_what_cannot_be_measured_is_told(tiny_run) -> None:
    with pytest.raises(UserError, match=r"seq_len=65 is more than the model's 64 positions"):
        measure_step(config_of(tiny_run(model=GPT2, train={"seq_len": 65})), rounds=1)
    neither = LLAMA | {"norm": "layernorm"}
    assert measure_step(config_of(tiny_run(model=neither)), rounds=1)["tokens_per_second"] > 0
    with pytest.raises(ModelError, match="to be llama, norm=layernorm must be rmsnorm"):
        measure_step(config_of(tiny_run(model=neither)), rounds=1, against_transformers=True)


def run_command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture, command: str) -> str:
    monkeypatch.setattr(sys, "argv", shlex.split(command))
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    return capfd.readouterr().out


def test_commands_print_what_makes_them_again(
    tiny_run, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    path = tiny_run()
    for first in (
        f"megamodel bench step {path} train.seq_len=16 --against transformers --rounds 2",
        f"megamodel bench loader {path} train.seq_len=16 --seconds 0.2 --rounds 2",
        f"megamodel bench loader {path} train.seq_len=16 train.global_batch_size=6 --seconds 0.2 --rounds 2",
    ):
        printed = run_command(monkeypatch, capfd, first)
        again = printed.splitlines()[-1].removeprefix("again: ")
        answer = json.loads(run_command(monkeypatch, capfd, f"{again} --json"))
        assert answer["command"] == again == first
        assert answer["seq_len"] == 16 and f"{answer['tokens_per_second']:,.0f}"
        if "loader" in first:
            batch = 6 if "global_batch_size" in first else 2**19 // 16
            assert answer["global_batch_size"] == batch
            assert f"{batch} sequences of 16 tokens" in printed


@pytest.mark.slow  # a time, so not part of `make test`
def test_the_quickstarts_step_is_no_slower_than_transformers() -> None:
    """Three attempts, since other programs on this machine disturb a measurement, though seldom for long."""
    config = config_of(ROOT / "configs" / "runs" / "quickstart.yaml")
    ratios = []
    while not ratios or (ratios[-1] < 1 and len(ratios) < 3):
        result = measure_step(config, rounds=15, against_transformers=True)
        ratios.append(result["transformers"]["their_time_over_ours"])
    assert ratios[-1] >= 1, ratios
