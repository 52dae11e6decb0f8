"""The README's commands exist, its settings load, its paths are there, and its data commands run."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main

from launcher.cli import main as entrance
from launcher.settings.kinds import kind_of, schemas
from launcher.yaml_config import load

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
LINES = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if not line.startswith("#")]
INLINE = [code for code in re.findall(r"`([^`\n]+)`", README) if re.match(r"(megamodel|make|torchrun) ", code)]
COMMANDS = list(dict.fromkeys([*LINES, *INLINE]))
OURS = [command for command in COMMANDS if command.startswith("megamodel ")]
NOT_YET = {"megamodel launch"}
SAMPLE = ROOT / "data_pipeline" / "sample" / "en.jsonl"


@pytest.fixture(scope="module")
def cli():
    """The click group behind `megamodel`."""
    if not entrance.app.registered_groups:
        entrance._register()
    return typer.main.get_command(entrance.app)


def resolve(cli, words):
    """The command that these words name, and the words that are its arguments."""
    command = cli
    while hasattr(command, "commands"):
        assert words, f"{command.name} is no command of its own"
        assert words[0] in command.commands, f"megamodel has no command {words[0]!r}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def test_there_are_commands_to_test():
    assert len(OURS) > 12


@pytest.mark.parametrize("line", [line for line in OURS if line not in NOT_YET])
def test_command_and_options_exist(cli, line):
    command, words = resolve(cli, shlex.split(line)[1:])
    known = {option for parameter in command.params for option in parameter.opts}
    assert [word for word in words if word.startswith("--") and word not in known] == []


@pytest.mark.parametrize("line", sorted(NOT_YET))
def test_what_is_called_missing_is_missing(cli, line):
    assert line.split()[1] not in cli.commands


@pytest.mark.parametrize("line", [c for c in COMMANDS if "configs/" in c and "setps" not in c])
def test_its_configuration_loads_with_its_settings(line):
    words = shlex.split(line)
    place = next(i for i, word in enumerate(words) if word.startswith("configs/"))
    path = ROOT / words[place]
    load(path, schemas()[kind_of(path)], [word for word in words[place + 1 :] if re.match(r"[a-z_.]+=", word)])


@pytest.mark.parametrize("target", re.findall(r"^make \w+|`make \w+`", README, flags=re.MULTILINE))
def test_make_targets_exist(target):
    name = target.strip("`").split()[1]
    assert re.search(rf"^{name}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_the_rooms_and_links_exist():
    rooms = re.findall(r"^(\w+/) {2,}", README, flags=re.MULTILINE)
    links = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert len(rooms) == 7
    assert [path for path in rooms + links if not (ROOT / path).exists()] == []


def test_own_text_from_files_to_a_checked_run(tmp_path):
    """The block on one's own text, run word for word but for the training, which is checked."""
    (tmp_path / "my").mkdir()
    rows = [json.loads(line) for line in SAMPLE.read_text(encoding="utf-8").splitlines()[:120]]
    (tmp_path / "my" / "text.jsonl").write_text("".join(json.dumps({"text": row["text"]}) + "\n" for row in rows))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    block = next(block for block in BLOCKS if "my/*.jsonl" in block)
    for line in block.splitlines():
        words = shlex.split(line)
        assert words[0] == "megamodel"
        words = words[1:] if words[1] != "train" else ["config", "check", *words[2:]]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "launcher", *words]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    assert "epochs" in done.stdout
