"""Tools on a run that replaces its only checkpoint all the time: none is damaged, a few are merely gone."""

import json
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from launcher.cli.main import main
from launcher.errors import UserError
from megamodel.checkpoint import checkpoint_name, find_newest_good, load_weights
from megamodel.checkpoint.folder import prune
from megamodel.errors import CheckpointError
from tools.convert.source import open_source

Trained = Callable[[str], Path]


def command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["megamodel", *arguments])
    try:
        main()
    except SystemExit as stopped:
        return stopped.code or 0
    return 0


@pytest.fixture
def copied(trained: Trained, tmp_path: Path) -> Path:
    """A copy of a finished run whose only checkpoint is that of step 30."""
    shutil.copytree(trained("gpt2"), tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000060")
    return tmp_path / "run"


@pytest.fixture
def in_progress(copied: Path) -> Iterator[Path]:
    """That run while a thread commits a checkpoint and deletes the one before, as fast as a tiny model can train."""
    folder, stop = copied / "checkpoints", threading.Event()

    def replace() -> None:
        for step in count(31):
            shutil.copytree(folder / checkpoint_name(step - 1), folder / ".writing-next")
            (folder / ".writing-next").rename(folder / checkpoint_name(step))
            prune(folder, keep=1, permanent_every_steps=None)
            if stop.wait(0.01):
                return

    thread = threading.Thread(target=replace)
    thread.start()
    yield copied
    stop.set()
    thread.join()


def test_the_newest_is_found_and_read(in_progress: Path) -> None:
    for _ in range(60):
        _, bad = find_newest_good(in_progress / "checkpoints")
        assert not bad
        source = open_source(in_progress)
        assert source.weights and not source.notes


@pytest.mark.parametrize("action", ["verify", "list"])
def test_none_is_called_damaged(
    action: str, in_progress: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    for _ in range(10):
        assert command(monkeypatch, "checkpoint", action, str(in_progress), "--json") == 0
        rows = json.loads(capfd.readouterr().out)
        assert rows and {row["state"] for row in rows} <= {"good", "complete (not verified)"}


def test_a_file_that_is_gone_is_a_sentence(copied: Path) -> None:
    checkpoint = copied / "checkpoints" / "step_00000030"
    (checkpoint / "rank_00000.safetensors").unlink()
    with pytest.raises(CheckpointError, match="it is gone"):
        load_weights(checkpoint)


def test_a_damaged_checkpoint_put_aside_can_be_examined(
    copied: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture
) -> None:
    good = copied / "checkpoints" / "step_00000030"
    aside = good.with_name("step_00000030.bad1")
    shutil.copytree(good, aside)
    (aside / "rank_00000.safetensors").unlink()
    assert command(monkeypatch, "checkpoint", "verify", str(aside), "--json") == 1
    (row,) = json.loads(capfd.readouterr().out)
    assert row["step"] == 30 and row["path"] == str(aside) and "missing" in row["state"]
    assert command(monkeypatch, "checkpoint", "verify", str(good)) == 0


def test_another_tokenizer_than_the_trained_one_is_refused(copied: Path) -> None:
    tokenizer = copied / "tokenizer" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")
    with pytest.raises(UserError, match="is not the tokenizer that the model was trained with"):
        open_source(copied)
