"""Whether settings fit each other, the ranks, the data and the disk; on real shard sets."""

import json
import os
import shutil

import pytest

from data_pipeline.execute import tokenize, train_tokenizer_on
from data_pipeline.shards import ShardSet
from data_pipeline.tokenizer import Tokenizer
from launcher.config import RunConfig
from launcher.errors import UserError
from launcher.physics import check, num_parameters, require
from launcher.yaml_config import dump, load
from megamodel.config import ModelConfig

SIZES = {
    "vocab_size": 512,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
}
GPT2 = {"position_embedding": "learned", "norm": "layernorm", "activation": "gelu"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A tokenizer and the shard sets `set`, `same` (its tokens), `more` and `tiny` (no whole sequence), as files."""
    folder = tmp_path_factory.mktemp("data")
    corpus, word = folder / "corpus.jsonl", folder / "word.jsonl"
    corpus.write_text(
        "".join(json.dumps({"text": f"{n} bottles of beer on the wall. " * 20}) + "\n" for n in range(60))
    )
    word.write_text(json.dumps({"text": "beer"}) + "\n")
    train_tokenizer_on([str(corpus)], 300).save(folder / "tokenizer")
    train_tokenizer_on([str(word)], 260).save(folder / "other")
    tokenizer = Tokenizer.load(folder / "tokenizer")
    tokenize([str(corpus)], tokenizer, folder / "set")
    tokenize([str(corpus)], tokenizer, folder / "same")
    tokenize([str(corpus), str(word)], tokenizer, folder / "more")
    tokenize([str(word)], tokenizer, folder / "tiny")
    return folder


@pytest.fixture
def config(data, tmp_path):
    """Builds a run that fits, with some settings changed: config(train={"steps": 3})."""

    def build(**changes):
        tree = {
            "run_dir": str(tmp_path / "run"),
            "model": SIZES,
            "data": {"tokenizer": str(data / "tokenizer"), "sources": [{"path": str(data / "set")}]},
            "train": {"steps": 100, "global_batch_size": 8, "micro_batch_size": 2, "seq_len": 32},
            "optimizer": {"lr": 1e-3},
        }
        for group, values in changes.items():
            tree[group] = {**tree.get(group, {}), **values} if isinstance(values, dict) else values
        return RunConfig.model_validate(tree)

    return build


def errors(config, world_size=None):
    return {p.setting: p.message for p in check(config, world_size) if p.severity == "error"}


def notes(config, world_size=None):
    return {p.setting: p.message for p in check(config, world_size) if p.severity == "note"}


def test_a_run_that_fits_has_only_notes(config):
    assert errors(config()) == {}
    assert set(notes(config())) == {"data.sources.0.path", "run_dir"}


@pytest.mark.parametrize(
    ("batch", "micro", "ranks", "nearest"),
    [
        (8, 3, 1, "global_batch_size 6 or 9; micro_batch_size 2 or 4"),
        (10, 2, 2, "global_batch_size 8 or 12; ranks 1 or 5; micro_batch_size 1 or 5"),
        (7, 4, 2, "global_batch_size 8"),
        (12, 5, 2, "global_batch_size 10 or 20; micro_batch_size 3 or 6"),
    ],
)
def test_batch_names_the_nearest_values_that_work(config, batch, micro, ranks, nearest):
    run = config(
        train={"steps": 9, "global_batch_size": batch, "micro_batch_size": micro, "seq_len": 32},
        engine={"name": "ddp", "ranks": ranks},
    )
    assert errors(run)["train.global_batch_size"].endswith(f"the nearest that fit: {nearest}")


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"optimizer": {"schedule": {"name": "cosine", "warmup_steps": 101}}}, "optimizer.schedule.warmup_steps"),
        (
            {"optimizer": {"schedule": {"name": "wsd", "warmup_steps": 50, "decay_steps": 51}}},
            "optimizer.schedule.decay_steps",
        ),
        ({"train": {"stop_at_step": 101}}, "train.stop_at_step"),
        ({"checkpoint": {"every_steps": 10, "permanent_every_steps": 25}}, "checkpoint.permanent_every_steps"),
        ({"train": {"seq_len": 4096}, "model": GPT2}, "train.seq_len"),
        ({"model": {"vocab_size": 299}}, "model.vocab_size"),
    ],
)
def test_settings_that_contradict_each_other(config, changes, setting):
    assert set(errors(config(**changes))) == {setting}


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"schedule": {"name": "wsd", "warmup_steps": 50, "decay_steps": 50}}},
        {"train": {"stop_at_step": 100}},
        {"checkpoint": {"every_steps": 10, "permanent_every_steps": 20}},
        {"train": {"seq_len": 2048}, "model": GPT2},
        {"model": {"vocab_size": 300}},
    ],
)
def test_settings_at_the_edge_fit(config, changes):
    assert errors(config(**changes)) == {}


def test_longer_than_the_rotary_model_is_made_for_is_a_note(config):
    run = config(train={"seq_len": 4096})
    assert errors(run) == {}
    assert "max_position_embeddings=2048" in notes(run)["train.seq_len"]


def test_data_says_how_many_epochs(config, data):
    tokens = json.loads((data / "set.manifest.json").read_text())["num_tokens"]
    windows = (tokens - 1) // 32
    more = notes(config(train={"steps": windows}))["data.sources.0.path"]
    assert more.endswith(f"has {tokens:,} tokens; this run reads them 8.00 times (epochs)")
    less = notes(config(train={"steps": 1}))["data.sources.0.path"]
    assert less.endswith(f"this run reads {8 / windows:.1%} of them")


def test_epochs_follow_the_weights(config, data):
    sources = [{"path": str(data / "set"), "weight": 3e307}, {"path": str(data / "more"), "weight": 1e307}]
    tokens = json.loads((data / "set.manifest.json").read_text())["num_tokens"]
    found = notes(config(data={"sources": sources}, train={"steps": (tokens - 1) // 32}))
    assert "6.00 times" in found["data.sources.0.path"]
    assert "2.00 times" in found["data.sources.1.path"]


def test_weights_at_the_ends_of_what_a_number_holds(config, data):
    sources = [{"path": str(data / "set"), "weight": 1e308}, {"path": str(data / "more"), "weight": 1e308}]
    found = notes(config(data={"sources": sources}, train={"steps": 10}))
    assert f"this run reads {40 / windows_of(data / 'more'):.1%} of them" in found["data.sources.1.path"]
    sources[1]["weight"] = 1e-9
    found = notes(config(data={"sources": sources}, train={"steps": 2**20}))
    assert "a share of 1e-317 is less than one in 1,048,576 samples" in found["data.sources.1.weight"]
    assert f"this run reads {8 / windows_of(data / 'more'):.1%} of them" in found["data.sources.1.path"]


def windows_of(prefix):
    return (ShardSet.open(prefix).num_tokens - 1) // 32


@pytest.mark.parametrize("other", ["set", "same"])
def test_the_same_tokens_twice(config, data, other):
    sources = [{"path": str(data / "set")}, {"path": str(data / other)}]
    found = errors(config(data={"sources": sources, "validation": sources}))
    assert set(found) == {"data.sources.1.path", "data.validation.1.path"}
    assert "holds the same tokens as data.sources.0.path" in found["data.sources.1.path"]


def test_too_few_tokens_for_one_sequence(config, data):
    run = config(data={"sources": [{"path": str(data / "set")}], "validation": [{"path": str(data / "tiny")}]})
    assert "fewer than one sequence of 32 + 1" in errors(run)["data.validation.0.path"]


def test_shards_of_another_tokenizer(config, data):
    message = errors(config(data={"tokenizer": str(data / "other")}))["data.sources.0.path"]
    assert "was made with another tokenizer" in message
    assert str(data / "other") in message


def test_missing_data_and_tokenizer_are_both_told(config, data):
    found = errors(config(data={"tokenizer": str(data / "no"), "sources": [{"path": str(data / "nothing")}]}))
    assert set(found) == {"data.tokenizer", "data.sources.0.path"}
    assert "`megamodel data train-tokenizer` makes one" in found["data.tokenizer"]


def test_a_run_folder_that_cannot_be_made(config, data, tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    for path in ("/dev/null/x", str(data / "corpus.jsonl"), str(tmp_path / "link")):
        assert "is not a folder" in errors(config(run_dir=path))["run_dir"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(config, tmp_path):
    tmp_path.chmod(0o555)
    assert "cannot be written" in errors(config(run_dir=str(tmp_path / "a" / "b")))["run_dir"]


@pytest.mark.skipif(not os.statvfs("/sys").f_flag & os.ST_RDONLY, reason="/sys is not a read-only mount")
def test_a_read_only_mount(config):
    assert "cannot be written" in errors(config(run_dir="/sys/x"))["run_dir"]


def larger_than_the_disk(config, **checkpoint):
    """A run whose single checkpoint needs about 10 GB more than is free."""
    free = shutil.disk_usage(config().run_dir.parent).free
    return config(model={"vocab_size": (free + 10**10) // (12 * 2 * 64)}, checkpoint=checkpoint)


@pytest.mark.parametrize(
    ("checkpoint", "count"),
    [
        ({}, "1 checkpoint of"),
        ({"every_steps": 50}, "2 checkpoints of"),
        ({"every_steps": 10}, "3 checkpoints of"),
        ({"every_steps": 10, "permanent_every_steps": 20}, "8 checkpoints of"),
        ({"every_steps": 10, "permanent_every_steps": 10}, "10 checkpoints of"),
    ],
)
def test_no_room_for_the_checkpoints(config, checkpoint, count):
    message = errors(larger_than_the_disk(config, **checkpoint))["run_dir"]
    assert message.startswith(f"up to {count}")
    assert "lower checkpoint.keep" in message


def test_checkpoints_that_are_there_already_are_not_counted_twice(config):
    run = larger_than_the_disk(config)
    folder = run.run_dir / "checkpoints" / "step_00000100"
    folder.mkdir(parents=True)
    assert "run_dir" in errors(run)
    with (folder / "weights").open("wb") as sparse:
        sparse.truncate(2 * 10**10)
    assert "run_dir" not in errors(run)


def test_require_locates_the_errors(config, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(dump(config()))
    assert {note.setting for note in require(load(path, RunConfig))} == {"data.sources.0.path", "run_dir"}
    with pytest.raises(UserError) as caught:
        require(load(path, RunConfig, ["train.stop_at_step=200", "train.global_batch_size=9"]))
    assert "\n  command line: train.stop_at_step: 200 is after the last step" in str(caught.value)
    with pytest.raises(UserError, match=r"run\.yaml:\d+:3: train\.global_batch_size: 8 sequences"):
        require(load(path, RunConfig, ["engine.name=ddp"]), world_size=3)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 2, "tie_word_embeddings": True},
        {"head_dim": 32, "attention_bias": True, "mlp_bias": True},
        {**GPT2, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        {**GPT2, "activation": "swiglu"},
    ],
)
def test_parameters_are_counted_as_the_model_has_them(changes):
    import torch

    from megamodel.gpt import GPT

    config = ModelConfig.model_validate({**SIZES, **changes})
    with torch.device("meta"):
        model = GPT(config)
    assert num_parameters(config) == sum(parameter.numel() for parameter in model.parameters())
