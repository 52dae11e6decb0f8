"""The guides' commands exist, their links lead somewhere, and what they quote of the program is what it says."""

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from launcher.cli import main as entrance
from tests.test_readme import resolve

ROOT = Path(__file__).parents[1]
GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
TEXTS = {guide.stem: guide.read_text(encoding="utf-8") for guide in GUIDES}
COMMANDS = [
    (name, line)
    for name, text in TEXTS.items()
    for block in re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("megamodel ")
]


@pytest.mark.parametrize(("guide", "line"), COMMANDS)
def test_command_and_options_exist(guide, line):
    if not entrance.app.registered_groups:
        entrance._register()
    command, words = resolve(typer.main.get_command(entrance.app), shlex.split(line)[1:])
    known = {option for parameter in command.params for option in parameter.opts}
    assert [word for word in words if word.startswith("--") and word not in known] == []
    assert all((ROOT / word).exists() for word in words if word.startswith("configs/"))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_links_lead_somewhere(guide):
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", TEXTS[guide.stem])
    assert [link for link in links if "://" not in link and not (guide.parent / link).exists()] == []


def test_the_refusal_that_is_quoted():
    from launcher.config import RunConfig
    from launcher.layout_checks import layout_problems
    from launcher.yaml_config import load

    config = load(ROOT / "configs/runs/quickstart.yaml", RunConfig, ["parallel.tp=4"]).value
    [problem] = [p for p in layout_problems(config, 4) if p.setting == "parallel.tp"]
    assert f"    {problem.setting}: {problem.message}\n" in TEXTS["layouts"]
