"""What `config check` says of the machine at hand: the ranks that would be started, and what DeepSpeed takes."""

import os
import subprocess
import sys

import pytest

from launcher.config import RunConfig
from launcher.train.here import problems_here
from launcher.yaml_config import load
from tests.conftest import ROOT


def _check(config, *overrides, start=("-m", "launcher")):
    command = [sys.executable, *start, "config", "check", str(config), *overrides]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done


def _said(config, *overrides):
    problems = problems_here(load(config, RunConfig, list(overrides)).value)
    return [(problem.severity, problem.setting, problem.message) for problem in problems]


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        ("{zero_optimisation: {stage: 1}, x: 1}", "zero_optimisation is no key that DeepSpeed reads; x is no key"),
        ("{zero_optimization: {stage3_prefetch_bucket: 5}}", "stage3_prefetch_bucket: is no key that DeepSpeed knows"),
        ("{elasticity: {enabled: true}}", "Elastic training has been removed"),
    ],
)
def test_keys_that_deepspeed_does_not_take_are_mistakes_among_others(tiny_run, raw, said):
    done = _check(tiny_run(), "engine.name=deepspeed", f"engine.deepspeed.raw={raw}", "train.steps=1")
    assert done.returncode == 2 and done.stdout == ""
    (line,) = (line for line in done.stderr.splitlines() if "engine.deepspeed.raw" in line)
    assert "command line: engine.deepspeed.raw" in line and said in line
    assert "optimizer.schedule.warmup_steps: 4 is more than" in done.stderr


def test_a_contradiction_is_a_note(tiny_run):
    raw = "engine.deepspeed.raw={zero_optimization: {stage: 1}, gradient_clipping: 2.0}"
    done = _check(tiny_run(), "engine.name=deepspeed", raw)
    assert (done.returncode, done.stderr) == (0, "")
    notes = [line for line in done.stdout.splitlines() if line.startswith("note: engine.deepspeed.raw: ")]
    assert sorted(line.split()[2] for line in notes) == ["gradient_clipping", "zero_optimization.stage"]


def test_without_the_package_it_is_a_note(tiny_run):
    start = ("-c", "import sys; sys.modules['deepspeed'] = None; from launcher.cli.main import main; main()")
    done = _check(tiny_run(), "engine.name=deepspeed", "engine.deepspeed.raw={x: 1}", start=start)
    assert done.returncode == 0 and "the package deepspeed is not installed here" in done.stdout


def test_without_raw_keys_the_package_is_not_asked(tiny_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "deepspeed", None)
    assert _said(tiny_run(), "engine.name=deepspeed", "engine.zero_stage=3") == []


def test_ranks_that_would_not_fit_are_told(tiny_run):
    config = tiny_run()
    fsdp = ["engine.name=fsdp", "parallel.tp=2"]
    ((severity, setting, message),) = _said(config, *fsdp)
    assert (severity, setting) == ("note", "engine.ranks")
    assert message == (
        "is unset: `megamodel train` starts 1 rank on this machine, which this layout does not fit; "
        "set engine.ranks=2 or start the ranks with torchrun"
    )
    assert _said(config, *fsdp, "engine.ranks=2") == _said(config, "engine.name=fsdp") == []
    assert _said(config, "engine.name=fsdp", "parallel.tp=3") == [], "no number of ranks helps: an error elsewhere"
