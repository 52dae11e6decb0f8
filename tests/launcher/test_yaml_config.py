# ruff: noqa: E501
"""The loader: composition, YAML 1.2's scalars, overrides, origins, and every mistake at once in words."""

import math
import random
import re
import string
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field

from data_pipeline.config import PrepareConfig
from launcher.config import RunConfig
from launcher.errors import UserError
from launcher.settings.kinds import schemas
from launcher.settings.names import ADVICE, FOREIGN
from launcher.settings.schema import settings_of
from launcher.yaml_config import dump, load

RUN = """\
run_dir: runs/x
model:
  vocab_size: 512
  hidden_size: 64
  num_hidden_layers: 2
  num_attention_heads: 4
  intermediate_size: 128
data:
  tokenizer: data/tokenizer
  sources:
    - path: data/a
    - path: data/b
      weight: 0.5
train:
  steps: 100
  global_batch_size: 8
  micro_batch_size: 2
  seq_len: 128
optimizer:
  lr: 1e-3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder, with a good run.yaml in it."""
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(RUN)
    return tmp_path


def write(name, text):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def mistakes(*overrides, path="run.yaml", schema=RunConfig):
    """The lines of the error that loading gives."""
    with pytest.raises(UserError) as caught:
        load(path, schema, overrides)
    lines = str(caught.value).split("\n  ")
    return lines[1:] if len(lines) > 1 else lines


def edited(old, new):
    assert old in RUN
    write("run.yaml", RUN.replace(old, new))


def test_a_good_file_loads_with_defaults(folder):
    config = load("run.yaml", RunConfig).value
    assert config.optimizer.lr == 0.001
    assert config.data.sources[1].weight == 0.5
    assert config.optimizer.betas == (0.9, 0.95)
    assert config.seed == 1234


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001),
        ("1E3", 1000),
        ("+.5", 0.5),
        ("1e6", 1_000_000),
        ("0x10", 16),
        ("0o17", 15),
        ("010", 10),
        (".inf", math.inf),
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("True", True),
        ("~", None),
        ("", None),
        ("12:30:45", "12:30:45"),
        ("2024-01-01", "2024-01-01"),
        ("1_000", "1_000"),
        ("'1'", "1"),
        ("!!str 1", "1"),
    ],
)
def test_scalars_follow_yaml_1_2(folder, text, value):
    class Anything(BaseModel):
        x: int | float | bool | str | None

    write("x.yaml", f"x: {text}\n")
    loaded = load("x.yaml", Anything).value.x
    assert loaded == value
    assert type(loaded) is type(value)


class TestBases:
    def test_mappings_merge_and_the_rest_replaces(self, folder):
        write("sub/top.yaml", "base: ../run.yaml\ndata:\n  sources: [{path: other}]\noptimizer:\n  eps: 1e-6\n")
        config = load("sub/top.yaml", RunConfig).value
        assert config.optimizer.lr == 0.001
        assert config.optimizer.eps == 1e-6
        assert [str(source.path) for source in config.data.sources] == ["other"]

    def test_later_bases_win_and_the_file_wins_over_all(self, folder):
        write("b.yaml", "seed: 2\ntrain: {steps: 7}\n")
        write("top.yaml", "base: [run.yaml, b.yaml]\nseed: 3\n")
        config = load("top.yaml", RunConfig).value
        assert (config.seed, config.train.steps) == (3, 7)

    def test_the_same_base_by_two_ways_is_no_circle(self, folder):
        write("a.yaml", "base: run.yaml\nseed: 1\n")
        write("b.yaml", "base: run.yaml\ntrain: {steps: 3}\n")
        write("top.yaml", "base: [a.yaml, b.yaml]\n")
        assert load("top.yaml", RunConfig).value.train.steps == 3

    def test_a_circle_is_named_where_it_closes(self, folder):
        write("a.yaml", "base: b.yaml\n")
        write("b.yaml", "seed: 1\nbase: a.yaml\n")
        assert mistakes(path="a.yaml") == ["b.yaml:2:1: base: goes round in a circle: a.yaml -> b.yaml -> a.yaml"]

    def test_a_missing_base_is_named_with_a_similar_one_and_hides_nothing(self, folder):
        write("top.yaml", "base: rum.yaml\nsede: 1\n")
        assert mistakes(path="top.yaml") == [
            "top.yaml:1:1: base: there is no file rum.yaml; did you mean run.yaml?",
            "top.yaml:2:1: sede: is not a setting; did you mean seed?",
        ]

    def test_mistakes_in_a_base_are_located_there(self, folder):
        write("top.yaml", "base: run.yaml\nseed: 1\n")
        edited("steps: 100", "steps: 0")
        assert mistakes(path="top.yaml") == ["run.yaml:15:3: train.steps: must be greater than 0, not 0"]

    def test_a_base_must_be_a_path(self, folder):
        write("top.yaml", "base: [run.yaml, 3]\n")
        assert mistakes(path="top.yaml") == ["top.yaml:1:18: base: must be the path of a file or a list of paths"]

    def test_overriding_a_choice_leaves_the_old_choices_settings_behind(self, folder):
        write("base.yaml", RUN + "  schedule: {name: wsd, warmup_steps: 5, decay_steps: 10}\n")
        write("top.yaml", "base: base.yaml\noptimizer: {schedule: {name: cosine}}\n")
        schedule = load("top.yaml", RunConfig).value.optimizer.schedule
        assert (schedule.name, schedule.warmup_steps) == ("cosine", 5)
        assert (
            load("base.yaml", RunConfig, ["optimizer.schedule.name=cosine"]).value.optimizer.schedule.name == "cosine"
        )


class TestOverrides:
    def test_values_are_yaml(self, folder):
        overrides = ["train.steps=1e2", "optimizer.max_grad_norm=null", "optimizer.betas=[0.8, 0.9]", "run_dir=no"]
        config = load("run.yaml", RunConfig, overrides).value
        assert config.train.steps == 100
        assert config.optimizer.max_grad_norm is None
        assert config.optimizer.betas == (0.8, 0.9)
        assert config.run_dir == Path("no")

    def test_items_of_a_list(self, folder):
        sources = load(
            "run.yaml", RunConfig, ["data.sources.0.weight=2", "data.sources.1={path: c}"]
        ).value.data.sources
        assert [(str(s.path), s.weight) for s in sources] == [("data/a", 2.0), ("c", 0.5)]

    def test_lists_replace_and_mappings_merge(self, folder):
        overrides = ["data.sources=[{path: c}]", "train={steps: 5}", "optimizer.schedule.warmup_steps=3"]
        config = load("run.yaml", RunConfig, overrides).value
        assert [str(s.path) for s in config.data.sources] == ["c"]
        assert (config.train.steps, config.train.seq_len) == (5, 128)
        assert config.optimizer.schedule.warmup_steps == 3

    def test_the_last_one_wins(self, folder):
        assert load("run.yaml", RunConfig, ["seed=1", "seed=2"]).value.seed == 2

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("train.steps", "'train.steps' is not of the form setting=value, such as train.steps=100"),
            ("=3", "'=3' is not of the form setting=value, such as train.steps=100"),
            ("train..steps=3", "'train..steps=3' is not of the form setting=value, such as train.steps=100"),
            ("data.sources.2.weight=1", "data.sources: is a list of 2, counted from 0; there is no item '2' in it"),
            ("data.sources.weight=1", "data.sources: is a list of 2, counted from 0; there is no item 'weight' in it"),
            ("train.setps=3", "train.setps: is not a setting; did you mean train.steps?"),
            ("seed.x=3", "seed: must be a whole number, not a group of settings"),
            ("train=3", "train: must be a group of settings, not 3"),
            ("base=other.yaml", "base: is not a setting; did you mean seed?"),
        ],
    )
    def test_mistakes(self, folder, override, message):
        if override.startswith("base"):
            message = mistakes(override)[0].removeprefix("command line: ")
            assert message.startswith("base: is not a setting")
        assert mistakes(override) == [f"command line: {message}"]

    def test_a_value_that_is_no_yaml(self, folder):
        (line,) = mistakes("train.steps=[1")
        assert line.startswith("command line: train.steps: not valid YAML: ")


class TestOrigins:
    def test_file_line_and_column_of_each_value(self, folder):
        write("sub/top.yaml", "base: ../run.yaml\ntrain:\n  steps: 5\n")
        loaded = load("sub/top.yaml", RunConfig, ["data.sources.1.weight=2"])
        origins = {name: str(origin) for name, origin in loaded.origins.items()}
        assert origins["train.steps"] == "sub/top.yaml:3:3"
        assert origins["train.seq_len"] == "run.yaml:18:3"
        assert origins["data.sources.1.path"] == "run.yaml:12:7"
        assert origins["data.sources.1.weight"] == "command line"
        assert origins["seed"] == "default"
        assert origins["optimizer.schedule.name"] == "default"

    def test_of_what_was_never_written_it_is_the_group_above(self, folder):
        loaded = load("run.yaml", RunConfig)
        assert str(loaded.origin("data.sources.0.nothing")) == "run.yaml:11:7"
        assert str(loaded.origin("nothing")) == "default"

    def test_raw_is_what_was_written(self, folder):
        raw = load("run.yaml", RunConfig, ["seed=1"]).raw
        assert raw["seed"] == 1
        assert "engine" not in raw


class TestMistakes:
    """Each: what is wrong, where, and what to do."""

    @pytest.mark.parametrize(
        ("old", "new", "message"),
        [
            ("steps: 100", "setps: 100", "15:3: train.setps: is not a setting; did you mean train.steps?"),
            ("optimizer:\n", "train.stepz: 3\noptimizer:\n", "19:1: train.stepz: is written with dots, as only a command line takes it; here write `stepz` below `train:`"),
            ("lr: 1e-3", "lr: 1e-3\n  schedule.warmup_steps: 3", "21:3: optimizer.schedule.warmup_steps: is written with dots, as only a command line takes it; here write `warmup_steps` below `schedule:`"),
            ("  steps: 100", "  train.steps: 100", "15:3: train.train.steps: is not a setting; did you mean train.steps?"),
            ("steps: 100", "steps: abc", "15:3: train.steps: must be a whole number, not the text 'abc'"),
            ("steps: 100", "steps: '100'", "15:3: train.steps: must be a whole number, not the text '100'; write 100"),
            ("steps: 100", "steps: 1_000", "15:3: train.steps: must be a whole number, not the text '1_000'; write 1000"),
            ("steps: 100", "steps: 2.5", "15:3: train.steps: must be a whole number, not 2.5"),
            ("steps: 100", "steps: true", "15:3: train.steps: must be a whole number, not true"),
            ("steps: 100", "steps:", "15:3: train.steps: must be a whole number, not null (nothing)"),
            ("steps: 100", "steps: [1]", "15:3: train.steps: must be a whole number, not a list"),
            ("steps: 100", "steps: {a: 1}", "15:3: train.steps: must be a whole number, not a group of settings"),
            ("steps: 100", "steps: -1", "15:3: train.steps: must be greater than 0, not -1"),
            ("steps: 100", f"steps: {'9' * 50}", "15:3: train.steps: a whole number of 50 digits is too large"),
            ("lr: 1e-3", "lr: .nan", "20:3: optimizer.lr: must be a finite number, not nan"),
            ("lr: 1e-3", "lr: .inf", "20:3: optimizer.lr: must be a finite number, not inf"),
            ("path: data/a", "path: 3", "11:7: data.sources.0.path: must be text, not 3; put it in quotes to make it text"),
            ("run_dir: runs/x", "run_dir: runs/x\nengine: {name: fspd}", "2:10: engine.name: must be one of single, ddp, fsdp or deepspeed, not the text 'fspd'; did you mean fsdp?"),
            ("run_dir: runs/x", "run_dir: runs/x\nengine: {compile: yes}", "2:10: engine.compile: must be true or false, not the text 'yes'; write true"),
            ("run_dir: runs/x", "run_dir: runs/x\nengine:", "2:1: engine: must be a group of settings, not null (nothing); indent its settings below it, or remove the line"),
            ("run_dir: runs/x", "run_dir: ~nobody-of-this-name/x", "1:1: run_dir: there is no home folder for ~nobody-of-this-name"),
            ("lr: 1e-3", "lr: 1e-3\n  lr: 2e-3", "21:3: optimizer.lr: is set twice, first in line 20; keep one of them"),
            ("lr: 1e-3", "lr: !!int '3x'", "20:3: optimizer.lr: invalid literal for int() with base 10: '3x'"),
            ("lr: 1e-3", "lr: !!python/object:os.system x", "20:3: optimizer.lr: YAML tags are not supported (!!python/object:os.system); write the plain value"),
            ("lr: 1e-3", "lr: 1e-3\n  betas: [0.9]", "21:3: optimizer.betas: must be [number >= 0 < 1, number >= 0 < 1], not a list of 1"),
            ("lr: 1e-3", "lr: 1e-3\n  betas: [0.9, 2]", "21:16: optimizer.betas.1: must be less than 1, not 2"),
            ("lr: 1e-3", "lr: 1e-3\n  schedule: {name: cosin}", "21:14: optimizer.schedule.name: must be one of cosine, wsd, not the text 'cosin'; did you mean cosine?"),
            ("lr: 1e-3", "lr: 1e-3\n  schedule: {name: wsd}", "21:3: optimizer.schedule.decay_steps: is required and not set: Steps of linear decay at the end; set it (whole number > 0)"),
            ("lr: 1e-3", "lr: 1e-3\n  schedule: {decay_steps: 3}", "21:14: optimizer.schedule.decay_steps: belongs to optimizer.schedule.name=wsd, but that is cosine; remove this or change that"),
            ("hidden_size: 64", "hidden_size: 66", "6:3: model.num_attention_heads: 4 does not divide hidden_size=66; the nearest that do: 2, 3 (or set head_dim)"),
            ("hidden_size: 64", "hidden_size: 60", "6:3: model.num_attention_heads: rotary positions need an even head_dim, this makes it 15"),
            ("hidden_size: 64", "hidden_size: 64\n  head_dim: 15", "5:3: model.head_dim: rotary positions need an even head_dim, this makes it 15"),
            ("  lr: 1e-3", "  eps: 1e-8", "19:1: optimizer.lr: is required and not set: Peak learning rate; set it (number > 0)"),
            ("optimizer:\n  lr: 1e-3\n", "", "optimizer: is required and not set: The optimizer and its schedule; it needs optimizer.lr"),
        ],
    )  # fmt: skip
    def test_one(self, folder, old, new, message):
        edited(old, new)
        place = "run.yaml: " if message.startswith("optimizer: is required") else "run.yaml:"
        (line,) = mistakes()
        assert line.startswith(place + message)

    def test_every_misfit_is_told_under_its_own_name(self, folder):
        assert mistakes("model.num_attention_heads=5", "model.num_key_value_heads=3") == [
            "command line: model.num_attention_heads: 5 does not divide hidden_size=64; "
            "the nearest that do: 2, 4 (or set head_dim)",
            "command line: model.num_key_value_heads: 3 does not divide num_attention_heads=5; these do: 1, 5",
        ]

    def test_empty_list_of_sources(self, folder):
        assert mistakes("data.sources=[]") == ["command line: data.sources: needs at least 1 item"]

    def test_a_name_that_lives_elsewhere(self, folder):
        assert mistakes("warmup_steps=3") == [
            "command line: warmup_steps: is not a setting here; it exists as optimizer.schedule.warmup_steps"
        ]

    def test_all_at_once_in_the_order_of_the_file(self, folder):
        write(
            "run.yaml",
            RUN.replace("hidden_size: 64", "hidden_size: 66\n  n_head: 2")
            .replace("steps: 100", "steps: many\n  steps: 3")
            .replace("lr: 1e-3", "betas: 3")
            + "zork: 1\n",
        )
        lines = mistakes("engine.name=zero", "nonsense")
        assert [line.split(": ")[1] for line in lines] == [
            "model.n_head",
            "model.num_attention_heads",
            "train.steps",
            "train.steps",
            "optimizer.lr",
            "optimizer.betas",
            "zork",
            "'nonsense' is not of the form setting=value, such as train.steps=100",
            "engine.name",
        ]

    def test_one_title_counts_them(self, folder):
        with pytest.raises(UserError, match=r"^2 mistakes in run\.yaml:\n"):
            load("run.yaml", RunConfig, ["a=1", "b=1"])


class TestForeignNames:
    """Names of other software are refused with their translation."""

    @pytest.mark.parametrize(
        ("override", "right"),
        [
            ("learning_rate=1e-3", "optimizer.lr"),
            ("train.learning_rate=1e-3", "optimizer.lr"),
            ("max_steps=1", "train.steps"),
            ("train.max-iters=1", "train.steps"),
            ("per_device_train_batch_size=1", "train.micro_batch_size"),
            ("model.n_layer=1", "model.num_hidden_layers"),
            ("model.n_embd=1", "model.hidden_size"),
            ("block_size=1", "train.seq_len"),
            ("clip_grad=1", "optimizer.max_grad_norm"),
            ("save_interval=1", "checkpoint.every_steps"),
            ("tensor_model_parallel_size=2", "parallel.tp"),
            ("bf16=true", "engine.precision (bf16, fp32 or auto)"),
            ("adam_beta1=0.9", "optimizer.betas (a list of both: [0.9, 0.95])"),
        ],
    )
    def test_translated(self, folder, override, right):
        name = override.split("=")[0]
        assert mistakes(override) == [f"command line: {name}: is other software's name; here it is {right}"]

    @pytest.mark.parametrize(
        ("override", "right"),
        [
            ("json_keys=a", "here it is sources.N.text_field"),
            ("vocab_file=a", "here it is tokenizer.path"),
            ("append_eod=true", "every document ends with the tokenizer's end-of-document token"),
            ("seq_length=1", "a run cuts them with its train.seq_len"),
            ("clean.5.language_threshold=0.6", "here it is clean.N.min_probability"),
            ("clean.7.dup_line_frac=0.3", "here it is clean.N.max_duplicate_lines"),
            ("clean.8.step=c4_quality", "did you mean c4?"),
            ("deduplicate.near.num_perm=128", "there are bands x rows hashes"),
            ("clean=[gopher_quality]", "not the text 'gopher_quality'; write {step: gopher_quality}"),
            ("clean=[gopher_repetition]", "not the text 'gopher_repetition'; write {step: repetition}"),
        ],
    )
    def test_translated_for_a_preparation(self, override, right):
        with pytest.raises(UserError, match=re.escape(right)):
            load("configs/data/web-crawl.yaml", PrepareConfig, [override])

    @pytest.mark.parametrize(
        ("name", "part"),
        [
            ("gradient_accumulation_steps", "accumulation follows from train.global_batch_size"),
            ("parallel.ep", "is not there yet (expert parallelism)"),
            ("sequence_parallel", "parallel.tp shares the sequence"),
            ("num_train_epochs", "give train.steps"),
            ("dropout", "there is no dropout"),
        ],
    )
    def test_without_a_counterpart(self, folder, name, part):
        (line,) = mistakes(f"{name}=1")
        assert part in line

    def test_every_translation_is_a_setting_and_no_setting_is_foreign(self):
        names = {setting.name for schema in schemas().values() for setting in settings_of(schema)}
        leaves = {setting.name.rpartition(".")[2] for setting in settings_of(RunConfig)}
        assert set(FOREIGN.values()) <= names
        assert not leaves & (set(FOREIGN) | set(ADVICE))
        assert not set(FOREIGN) & set(ADVICE)


class TestFiles:
    """A file that cannot be a configuration: one sentence."""

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"", "bad.yaml: the file is empty; write settings such as `seed: 1` in it"),
            (b"# only a comment\n", "bad.yaml: the file is empty; write settings such as `seed: 1` in it"),
            (b"\x93NUMPY\x00", "bad.yaml is not a text file: byte 0 is not UTF-8"),
            (b"a: \x00", "bad.yaml: not a text file: character 3 is the control character #x0000"),
            (b"train:\n\tsteps: 1\n", "bad.yaml:2:1: a tab stands where YAML needs spaces; indent with spaces"),
            (b"- a\n- b\n", "bad.yaml:1:1: a configuration is a list of `setting: value` lines; is a space missing"),
            (b"seed:1\n", "bad.yaml:1:1: a configuration is a list of `setting: value` lines; is a space missing"),
            (b"a: [1\nb: 2\n", "bad.yaml:2:2: not valid YAML: "),
            (b"a: 'x\n", "bad.yaml:2:1: not valid YAML: found unexpected end of stream"),
            (b"a: 1\n---\nb: 2\n", "bad.yaml:2:1: not valid YAML: but found another document"),
            (b"a: &x 1\nb: *x\n", "bad.yaml:2:4: aliases (*name) are not supported here; repeat the value"),
            (b"[a]: 1\n", "bad.yaml:1:1: the name of a setting must be plain text"),
            (b'run_dir: "\\ud800"\n', "bad.yaml:1:1: run_dir: 'utf-8' codec can't encode"),
            (b"a: " + b"[" * 5000, "bad.yaml: nested more than 32 levels deep"),
            (b"a: " + b"[" * 50 + b"]" * 50, "bad.yaml:1:36: a.0.0"),
            (b"x" * (2 << 20), "bad.yaml is not a configuration file: it is larger than 1 MiB or a device"),
        ],
    )
    def test_content(self, folder, content, message):
        Path("bad.yaml").write_bytes(content)
        assert any(message in line for line in mistakes(path="bad.yaml"))

    def test_a_byte_order_mark_is_fine(self, folder):
        Path("run.yaml").write_bytes(b"\xef\xbb\xbf" + RUN.encode())
        assert load("run.yaml", RunConfig).value.seed == 1234

    def test_missing_with_a_similar_one(self, folder):
        assert mistakes(path="rnu.yaml") == ["rnu.yaml: there is no file rnu.yaml; did you mean run.yaml?"]

    def test_missing_folder(self, folder):
        assert mistakes(path="no/run.yaml") == ["no/run.yaml: there is no file no/run.yaml (nor a folder no)"]

    def test_folder_and_device(self, folder):
        assert mistakes(path=".") == [".: . is a folder, not a file"]
        assert "or a device" in mistakes(path="/dev/zero")[0]


class First(BaseModel):
    """One choice."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    kind: Literal["first"]
    """Selects it."""
    size: int
    """A size."""


class Second(BaseModel):
    """The other choice."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    kind: Literal["second"]
    """Selects it."""
    path: Path
    """A path."""


class Tree(BaseModel):
    """What a colleague's schema may hold beside plain groups."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)
    steps: list[Annotated[First | Second, Field(discriminator="kind")]] = []
    """A list of choices."""
    files: str | list[str] = []
    """One or several."""
    named: dict[str, First] = {}
    """Free names."""
    maybe: First | None = None
    """A group or nothing."""


class TestOtherSchemas:
    def test_a_good_one(self, folder):
        write("t.yaml", "steps: [{kind: second, path: x}]\nfiles: a\nnamed: {q: {kind: first, size: 1}}\nmaybe: null\n")
        tree = load("t.yaml", Tree).value
        assert isinstance(tree.steps[0], Second)
        assert tree.named["q"].size == 1

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("steps: [{kind: third}]", "1:10: steps.0.kind: must be one of first, second, not the text 'third'"),
            ("steps: [{size: 3}]", "1:9: steps.0.kind: is required and not set: Selects it; set it (first | second)"),
            ("steps: [{kind: first, size: x}]", "1:23: steps.0.size: must be a whole number, not the text 'x'"),
            ("steps: [{kind: first, size: 1, path: x}]", "1:32: steps.0.path: belongs to steps.0.kind=second, but that is first"),
            ("steps: [{kind: first, sise: 1}]", "1:23: steps.0.sise: is not a setting; did you mean steps.0.size?"),
            ("steps: [{kind: 3}]", "1:10: steps.0.kind: must be one of first, second, not 3"),
            ("steps: {kind: first}", "1:1: steps: must be a list, not a group of settings"),
            ("files: 3", "1:1: files: must be text or must be a list, not 3"),
            ("named: {q: {kind: first, size: x}}", "1:26: named.q.size: must be a whole number, not the text 'x'"),
            ("named: {q: 3}", "1:9: named.q: must be a group of settings, not 3"),
            ("maybe: {kind: first, siez: 1}", "1:22: maybe.siez: is not a setting; did you mean maybe.size?"),
        ],
    )  # fmt: skip
    def test_mistakes(self, folder, text, message):
        write("t.yaml", text + "\n")
        assert any(line.startswith(f"t.yaml:{message}") for line in mistakes(path="t.yaml", schema=Tree))


class TestDump:
    def test_load_reads_it_back(self, folder):
        config = load(
            "run.yaml", RunConfig, ["optimizer.eps=1e-9", "optimizer.schedule={name: wsd, decay_steps: 3}"]
        ).value
        write("again.yaml", dump(config))
        assert load("again.yaml", RunConfig).value == config

    @given(
        st.text(st.characters(exclude_categories=["Cs"]))
        | st.sampled_from(["\x85", "a\u2028b", "no", "1e5", "0o7", "~", "1_0", "=", "<<"])
    )
    @settings(max_examples=200, deadline=None)
    def test_any_text_survives(self, tmp_path_factory, text):
        class Text(BaseModel):
            x: str

        path = tmp_path_factory.mktemp("dump") / "x.yaml"
        path.write_text(dump(Text(x=text)), newline="")
        assert load(path, Text).value.x == text

    @given(st.floats(allow_nan=False) | st.integers(-(2**63), 2**63))
    @settings(max_examples=200, deadline=None)
    def test_any_number_survives(self, tmp_path_factory, number):
        class Number(BaseModel):
            x: float | int

        path = tmp_path_factory.mktemp("dump") / "x.yaml"
        path.write_text(dump(Number(x=number)))
        assert load(path, Number).value.x == number


_YAMLISH = st.lists(st.sampled_from([*"ab01:-[]{}'\"#&*!|>%@`,?~.=\n\t \\\0é", "train", "base", "x.yaml"])).map("".join)


class TestFuzz:
    """Whatever the file or the arguments hold, the answer is a configuration or a UserError."""

    @given(text=_YAMLISH | st.text(), override=_YAMLISH)
    @settings(max_examples=400, deadline=None)
    def test_random_text(self, tmp_path_factory, text, override):
        path = tmp_path_factory.mktemp("fuzz") / "x.yaml"
        path.write_text(text, errors="replace", newline="")
        with pytest.raises(UserError):
            load(path, RunConfig, [override])

    @given(st.binary())
    @settings(max_examples=100, deadline=None)
    def test_random_bytes(self, tmp_path_factory, content):
        path = tmp_path_factory.mktemp("fuzz") / "x.yaml"
        path.write_bytes(content)
        with pytest.raises(UserError):
            load(path, RunConfig)

    @given(st.integers())
    @settings(max_examples=300, deadline=None)
    def test_a_good_file_with_a_few_characters_changed(self, tmp_path_factory, seed):
        rng = random.Random(seed)
        characters = list(RUN)
        for _ in range(rng.randint(1, 4)):
            characters[rng.randrange(len(characters))] = rng.choice([*string.printable, "", "[", "{", "\n  "])
        path = tmp_path_factory.mktemp("fuzz") / "x.yaml"
        path.write_text("".join(characters), newline="")
        try:
            config = load(path, RunConfig).value
        except UserError:
            return
        assert isinstance(config, RunConfig)

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=["Cs"])),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from([s.name.rpartition(".")[2] for s in settings_of(RunConfig)]), inner)
            ),
            max_leaves=20,
        )
    )
    @settings(max_examples=300, deadline=None)
    def test_right_names_with_random_values(self, tmp_path_factory, value):
        class Any(BaseModel):
            model_config = ConfigDict(extra="allow")

        path = tmp_path_factory.mktemp("fuzz") / "x.yaml"
        path.write_text(dump(Any(**value)) if isinstance(value, dict) else "seed: 1\n", newline="")
        with pytest.raises(UserError):
            load(path, RunConfig)
