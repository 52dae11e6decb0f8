"""The files in configs/ and the commands that read them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from launcher.config import RunConfig
from launcher.physics import check, num_parameters
from launcher.settings.kinds import ModelFragment, kind_of, schemas
from launcher.settings.schema import settings_of
from launcher.yaml_config import load

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "configs").rglob("*.yaml"))
RUNS = [path for path in FILES if path.parent.name == "runs"]


def megamodel(*arguments, cwd=ROOT):
    """Run the command as a user does; colours and widths as in a pipe."""
    command = [sys.executable, "-m", "launcher", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=60)


def test_every_kind_is_there():
    assert {kind_of(path) for path in FILES} == set(schemas())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_it_loads(path):
    kind = kind_of(path)
    assert kind == {"runs": "run", "data": "data", "models": "model", "clusters": "cluster"}[path.parent.name]
    load(path, schemas()[kind])


@pytest.mark.parametrize("path", RUNS, ids=lambda path: path.stem)
def test_a_runs_settings_fit_each_other(path):
    """All that can be known before its data is prepared and its disk is chosen."""
    errors = [p for p in check(load(path, RunConfig).value) if p.severity == "error" and p.setting != "run_dir"]
    assert [p for p in errors if not re.fullmatch(r"data\.(tokenizer|\w+\.\d+\.path)", p.setting)] == []


@pytest.mark.parametrize("path", [path for path in FILES if path.parent.name != "data"], ids=lambda path: path.stem)
def test_every_line_says_what_it_means(path):
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not re.fullmatch(r"\s*|\w+:", line):
            assert "#" in line, f"{path.name}:{number} has no comment: {line}"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("gpt2-124m", 124_439_808),
        ("llama3-1b", 1_235_814_400),
        ("llama3-8b", 8_030_261_248),
        ("llama3-70b", 70_553_706_496),
    ],
)
def test_published_models_have_their_published_size(name, parameters):
    model = load(ROOT / f"configs/models/{name}.yaml", ModelFragment).value.model
    assert num_parameters(model) == parameters


@pytest.mark.parametrize("kind", list(schemas()))
def test_every_setting_is_documented(kind):
    undocumented = [setting.name for setting in settings_of(schemas()[kind]) if not setting.doc]
    assert undocumented == []


class TestCheck:
    def test_good(self):
        done = megamodel("config", "check", "configs/models/llama-tiny.yaml")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == "configs/models/llama-tiny.yaml: a model configuration without mistakes\n"

    def test_mistakes_are_exit_2_without_a_traceback(self):
        done = megamodel("config", "check", "configs/models/llama-tiny.yaml", "model.n_layer=3", "model.hidden_size=x")
        assert done.returncode == 2
        assert done.stdout == ""
        assert (
            "command line: model.n_layer: is other software's name; here it is model.num_hidden_layers" in done.stderr
        )
        assert "command line: model.hidden_size: must be a whole number, not the text 'x'" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_run_is_also_checked_against_its_data(self, tmp_path):
        done = megamodel("config", "check", ROOT / "configs/runs/quickstart.yaml", cwd=tmp_path)
        assert done.returncode == 2
        assert "data.tokenizer: no tokenizer at data/quickstart/tokenizer" in done.stderr
        assert "data.sources.0.path: no shard set at data/quickstart/train" in done.stderr

    def test_a_missing_file(self):
        done = megamodel("config", "check", "configs/runs/quickstrat.yaml")
        assert done.returncode == 2
        assert "did you mean configs/runs/quickstart.yaml?" in done.stderr

    def test_a_preparation_is_checked_against_its_inputs(self, tmp_path):
        changes = ["sources.0.files=[here.txt, gone.txt]", "tokenizer={kind: load, path: nowhere}", "out=here.txt/x"]
        (tmp_path / "here.txt").write_text("here")
        (tmp_path / "d.yaml").write_text(f"base: {ROOT}/configs/data/quickstart.yaml\ntokenizer: {{vocab_size: 300}}\n")
        done = megamodel("config", "check", "d.yaml", *changes, cwd=tmp_path)
        assert done.returncode == 2
        assert "command line: sources.0.files.1: gone.txt: no such file" in done.stderr
        assert "command line: tokenizer.path: no tokenizer at nowhere" in done.stderr
        assert f"command line: out: {tmp_path}/here.txt is not a folder" in done.stderr
        assert "files.0" not in done.stderr
        assert megamodel("config", "check", "configs/data/quickstart.yaml").returncode == 0

    def test_misfits_of_the_model_hide_nothing_else(self, tmp_path):
        changes = ["model.num_attention_heads=3", "engine.ranks=3", "data.tokenizer=nope"]
        done = megamodel("config", "check", ROOT / "configs/runs/quickstart.yaml", *changes, cwd=tmp_path)
        assert done.returncode == 2
        assert "command line: model.num_attention_heads: 3 does not divide hidden_size=" in done.stderr
        assert "train.global_batch_size: 8 sequences do not divide over 3 ranks" in done.stderr
        assert "command line: data.tokenizer: no tokenizer at nope" in done.stderr

    @pytest.mark.parametrize("command", [["check"], ["show"]], ids=str)
    def test_a_missing_base_hides_nothing(self, tmp_path, command):
        (tmp_path / "nb.yaml").write_text("base: nope.yaml\ntrain:\n  stepz: 3\n")
        (tmp_path / "none.yaml").write_text("base: nope.yaml\n")
        done = megamodel("config", *command, "nb.yaml", "train.stepx=4", cwd=tmp_path)
        assert done.returncode == 2
        assert re.findall(r"3 mistakes|nope\.yaml|train\.step[xz](?=: is not)", done.stderr) == [
            "3 mistakes",
            "nope.yaml",
            "train.stepz",
            "train.stepx",
        ]
        for file in ("none.yaml", "nothing.yaml"):
            assert "2 mistakes" in megamodel("config", *command, file, "train.stepx=4", cwd=tmp_path).stderr


class TestShow:
    def test_each_value_has_its_origin(self):
        done = megamodel("config", "show", "configs/runs/quickstart.yaml", "train.steps=7", "engine.name=ddp")
        lines = {line.split("#")[0].strip(): line.split("#")[-1].strip() for line in done.stdout.splitlines()}
        assert lines["steps: 7"] == "command line"
        assert lines["eps: 1.0e-08"] == "default"
        assert lines["rope_theta: 10000.0"].startswith("configs/models/llama-tiny.yaml:")
        assert lines["- path: data/quickstart/train"].startswith("configs/runs/quickstart.yaml:")
        assert re.fullmatch(r"configs/runs/quickstart\.yaml:\d+:3", lines["betas: [0.9, 0.95]"])

    def test_what_it_prints_is_a_configuration(self, tmp_path):
        long = "run_dir=" + "a long name with # and: signs " * 8 + "end"
        done = megamodel("config", "show", "configs/runs/llama3-1b-8gpu.yaml", f"run_dir='{long}'")
        (tmp_path / "shown.yaml").write_text(done.stdout)
        shown = load(tmp_path / "shown.yaml", RunConfig).value
        assert shown.run_dir == Path(long)
        assert shown == load(ROOT / "configs/runs/llama3-1b-8gpu.yaml", RunConfig, [f"run_dir='{long}'"]).value

    def test_json(self):
        done = megamodel("config", "show", "--json", "configs/runs/quickstart.yaml", "seed=5")
        shown = json.loads(done.stdout)
        assert shown["config"]["seed"] == 5
        assert shown["origins"]["seed"] == "command line"


class TestExplain:
    def test_a_setting(self):
        done = megamodel("config", "explain", "engine.name")
        assert done.stdout.startswith("engine.name\n  single: one process;")
        assert "type: single | ddp | fsdp" in done.stdout
        assert "default: single" in done.stdout

    def test_a_setting_in_a_file(self):
        done = megamodel("config", "explain", "configs/runs/quickstart.yaml", "optimizer.lr", "--json")
        (found,) = json.loads(done.stdout)
        assert found["name"] == "optimizer.lr"
        assert found["value"] == load(ROOT / "configs/runs/quickstart.yaml", RunConfig).value.optimizer.lr
        assert found["origin"].startswith("configs/runs/quickstart.yaml:")

    def test_an_item_of_a_list_in_a_file(self):
        file = "configs/runs/quickstart.yaml"
        (found,) = json.loads(megamodel("config", "explain", file, "data.sources.0.weight", "--json").stdout)
        assert found["value"] == 1.0
        done = megamodel("config", "explain", file, "data.sources.7.weight")
        assert done.returncode == 2
        assert "data.sources: is a list of 1, counted from 0; there is no item 7 in it" in done.stderr

    def test_a_choice_among_groups(self):
        from launcher.settings.explain import explanations

        file, name = "configs/data/web-crawl.yaml", "max_duplicate_line_characters"
        found = {kind: explanations([file, f"clean.{place}"]) for place, kind in ((7, "repetition"), (9, "fineweb"))}
        assert all(f"\n  {kind}: " in found[kind][1]["doc"] for kind in found)
        assert "javascript" not in str([one["name"] for one in found["fineweb"]])
        defaults = [one["default"] for kind in found for one in found[kind] if one["name"].endswith(name)]
        assert defaults == [0.2, 0.01]
        assert [one["default"] for one in explanations([f"clean.N.{name}"])] == defaults

    @pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
    def test_a_whole_file(self, path):
        from launcher.settings.explain import explanations, in_words

        found = explanations([str(path)])
        assert len(found) == len(list(settings_of(schemas()[kind_of(path)])))
        assert all(in_words(one) for one in found)

    @pytest.mark.parametrize(
        ("name", "answer"),
        [
            ("learning_rate", "here it is optimizer.lr"),
            ("steps", "it exists as train.steps"),
            ("train.sepq_len", "did you mean train.seq_len?"),
            ("zzzz", "is not a setting"),
        ],
    )
    def test_no_setting(self, name, answer):
        done = megamodel("config", "explain", name)
        assert done.returncode == 2
        assert answer in done.stderr


def test_schema_is_json_schema_that_allows_a_base_and_parts():
    schema = json.loads(megamodel("config", "schema").stdout)
    assert {"base", "run_dir", "train"} <= set(schema["properties"])
    assert '"required"' not in json.dumps(schema)
    assert "Peak learning rate." in json.dumps(schema)
    data = json.loads(megamodel("config", "schema", "configs/data/quickstart.yaml").stdout)
    assert "validation_fraction" in data["properties"]


@pytest.mark.parametrize("arguments", [["--help"], ["config", "check", "configs/models/gpt2-tiny.yaml"]], ids=str)
def test_commands_that_need_no_torch_do_not_import_it(arguments):
    code = (
        "import sys\nfrom launcher.cli.main import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.stderr.strip().splitlines()[-1] == "False"
