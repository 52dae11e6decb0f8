"""Training as users start it: under torchrun, and with the mistakes they make."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from launcher.monitor.clock import Mark
from launcher.monitor.metrics import JsonLines, MetricsWriter, StepRecord
from tests.conftest import ROOT, events_of, metrics_of, run_training
from tests.ranks import train_in_ranks


def test_torchrun_and_the_command_are_the_same_training(tiny_run, tmp_path):
    config = tiny_run(engine={"name": "fsdp", "ranks": 2})
    run_training(config)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*torchrun, "-m", "launcher.train", str(config), f"run_dir={tmp_path / 'torchrun'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    essence = [
        [(m["step"], m["loss"], m["samples_digest"]) for m in metrics_of(tmp_path / r)] for r in ("run", "torchrun")
    ]
    assert essence[0] == essence[1]


def test_srun_starts_ranks(tiny_run, tmp_path):
    """With the variables that srun sets for each task; a real Slurm is not needed to read them."""
    config = tiny_run(engine={"name": "fsdp"})
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tasks = []
    for task in range(2):
        slurm = {"SLURM_PROCID": str(task), "SLURM_NTASKS": "2", "SLURM_LOCALID": str(task)}
        meeting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "launcher", "train", str(config)]
        tasks.append(subprocess.Popen(command, cwd=ROOT, env={**os.environ, **slurm, **meeting}))
    assert [task.wait(120) for task in tasks] == [0, 0]
    assert len(list((tmp_path / "run" / "checkpoints" / "step_00000020").glob("rank_*.safetensors"))) == 2


def test_a_line_of_metrics_says_it_all(tiny_run, tmp_path):
    output = train_in_ranks(tiny_run(monitor={"tensorboard": True}))
    lines = metrics_of(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, 21))
    for line in lines:
        assert line["tokens"] == line["step"] * 8 * 32
        assert line.keys() >= {"loss", "lr", "grad_norm", "tokens_per_second", "mfu", "samples_digest", "data_seconds"}
    assert [line["step"] for line in lines if "validation_loss" in line] == [10, 20]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert events_of(tmp_path / "run", "validated")[0]["step"] == 0
    assert [event["step"] for event in events_of(tmp_path / "run", "saved")] == [5, 10, 15, 20]
    assert list((tmp_path / "run" / "tensorboard").glob("events.out.*"))
    assert (tmp_path / "run" / "tokenizer" / "tokenizer.json").is_file()
    assert "step 20/20" in output and "ETA 0:00" in output


def test_bits_per_byte_follow_from_the_text(tiny_run, tiny_data, tmp_path):
    """The loss in bits over the bytes of the very sequences, counted here by decoding them."""
    import math

    from data_pipeline.mixture import Mixture
    from data_pipeline.tokenizer import Tokenizer

    train_in_ranks(tiny_run())
    tokenizer = Tokenizer.load(tiny_data / "tokenizer")
    mixture = Mixture.open([(tiny_data / "validation", 1.0)], 32, 7)
    targets = mixture.read(mixture.samples(0, 10))[:, 1:]
    # Byte-level tokens decode to whole bytes only together; a single id may be part of a character.
    vocab = json.loads(tokenizer.to_json())["model"]["vocab"]
    words = {index: word for word, index in vocab.items()}
    text_bytes = sum(len(words[i]) for i in targets.flatten().tolist() if i != tokenizer.eos_id)
    line = metrics_of(tmp_path / "run")[-1]
    expected = line["validation_loss"] * targets.size / math.log(2) / text_bytes
    assert line["validation_bits_per_byte"] == pytest.approx(expected, rel=1e-6)


def test_a_complete_run_is_left_as_it_is(tiny_run, tmp_path):
    train_in_ranks(tiny_run())
    before = (tmp_path / "run" / "metrics.jsonl").read_text()
    assert "there is nothing to train" in train_in_ranks(tiny_run())
    assert (tmp_path / "run" / "metrics.jsonl").read_text() == before


def test_a_loss_that_is_no_number_ends_the_run_unsaved(tiny_run, tmp_path):
    output = train_in_ranks(tiny_run(optimizer={"lr": 1e30, "max_grad_norm": None}), code=1)
    assert "not a finite number" in output and "Traceback" not in output
    assert events_of(tmp_path / "run", "not_finite")
    last_saved = max((event["step"] for event in events_of(tmp_path / "run", "saved")), default=0)
    assert last_saved < events_of(tmp_path / "run", "not_finite")[0]["step"]


def test_the_ranks_agree_that_a_loss_is_no_number(tiny_run, tmp_path):
    config = tiny_run(optimizer={"lr": 1e30, "max_grad_norm": None}, checkpoint={"every_steps": 100})
    output = train_in_ranks(config, "engine.name=fsdp", ranks=2, code=1)
    assert output.count("not a finite number") == 2 and "Traceback" not in output
    assert len(events_of(tmp_path / "run", "not_finite")) == 1


def test_the_folder_has_the_tokenizer_that_was_trained_with(tiny_run, tiny_data, tmp_path):
    """Also when an earlier attempt, which never came to a checkpoint, left another one there."""
    shutil.copytree(tiny_data / "tokenizer", tmp_path / "run" / "tokenizer")
    left = tmp_path / "run" / "tokenizer" / "tokenizer.json"
    left.write_text(left.read_text() + " ")
    train_in_ranks(tiny_run(), "train.stop_at_step=5")
    assert left.read_bytes() == (tiny_data / "tokenizer" / "tokenizer.json").read_bytes()


def test_a_line_that_cannot_be_written_ends_the_run(tmp_path):
    """Even the last one: a run must not end well with its metrics incomplete."""
    marks = [Mark(torch.device("cpu"))] * 3
    record = StepRecord(1, *marks, torch.zeros(1), ("loss",), {})
    metrics = MetricsWriter(lambda line, seconds: None, [JsonLines(Path("/dev/full"))])
    metrics.push(record)
    with pytest.raises(OSError, match="No space left"):
        metrics.flush()


def _refused(config, tmp_path, *overrides: str) -> str:
    """What the command says when it refuses, before it has written anything."""
    output = run_training(config, *overrides, code=2)
    assert "Traceback" not in output
    assert not (tmp_path / "run" / "checkpoints").exists()
    return output


def test_a_misspelt_setting_a_wrong_type_and_a_missing_file(tiny_run, tmp_path):
    output = _refused(tiny_run(), tmp_path, "train.setps=3", "optimizer.lr=fast")
    assert "did you mean train.steps" in output and "'fast'" in output
    output = _refused(tiny_run(), tmp_path, f"data.sources.0.path={tmp_path / 'nowhere'}")
    assert str(tmp_path / "nowhere") in output


def test_shards_of_another_tokenizer_and_a_truncated_shard(tiny_run, tiny_data, tmp_path):
    from data_pipeline.execute import train_tokenizer_on

    train_tokenizer_on([tiny_data / "en.jsonl"], vocab_size=300).save(tmp_path / "other")
    output = _refused(tiny_run(), tmp_path, f"data.tokenizer={tmp_path / 'other'}")
    assert "another tokenizer" in output or "made by" in output
    for path in tiny_data.glob("train*"):
        shutil.copy(path, tmp_path)
    shard = tmp_path / "train_00000_text_document.bin"
    shard.write_bytes(shard.read_bytes()[:-10])
    output = _refused(tiny_run(), tmp_path, f"data.sources.0.path={tmp_path / 'train'}")
    assert str(shard) in output and "cut short" in output
