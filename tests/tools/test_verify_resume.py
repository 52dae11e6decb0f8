"""`verify resume` passes on an honest run and fails on every way in which a resumed run can differ."""

import json
import os
import subprocess
import sys

import pytest

from launcher.config import RunConfig
from launcher.yaml_config import load
from tests.conftest import ROOT
from tools.verify.resume import ResumeCheck


def test_a_killed_run_is_the_same_run(tiny_run, tmp_path):
    config = tiny_run(train={"steps": 250, "micro_batch_size": 8})
    command = [sys.executable, "-m", "launcher", "verify", "resume", str(config), "--kills", "2", "--json"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr + done.stdout
    rows = json.loads(done.stdout.splitlines()[-1])
    assert [row["layout"] for row in rows] == ["as configured", "fsdp x 1"]
    assert rows[0]["steps"] == 250 and rows[0]["max_difference"] == 0 and "killed after step" in rows[0]["history"]
    assert rows[1]["steps"] == 10 and rows[1]["max_difference"] <= 1e-5
    assert all(row["same_samples"] and row["passed"] for row in rows)


REFERENCE = {step: {"step": step, "loss": 5.0, "samples_digest": str(step)} for step in range(1, 11)}
HONEST = {step: dict(line) for step, line in REFERENCE.items()}


@pytest.mark.parametrize(
    ("lines", "tolerance", "passed"),
    [
        (HONEST, 0.0, True),
        ({step: HONEST[step] for step in range(6, 11)}, 0.0, True),
        ({step: HONEST[step] for step in range(1, 10)}, 0.0, False),  # the last step is missing
        ({**HONEST, 4: {**HONEST[4], "samples_digest": "5"}}, 1e-5, False),  # a batch twice
        ({**HONEST, 4: {**HONEST[4], "loss": 5.0 + 1e-15}}, 0.0, False),  # one bit
        ({**HONEST, 4: {**HONEST[4], "loss": 5.0 + 1e-5}}, 1e-5, True),
        ({**HONEST, 4: {**HONEST[4], "loss": 5.0 + 1e-4}}, 1e-5, False),
        ({}, 1e-5, False),
    ],
)
def test_every_difference_is_seen(tiny_run, tmp_path, lines, tolerance, passed):
    path = tiny_run()
    check = ResumeCheck(path, load(path, RunConfig).value, [], tmp_path, kills=3, seed=0)
    assert check._compare("x", "y", lines, REFERENCE, tolerance).passed is passed
