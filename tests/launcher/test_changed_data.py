"""Runs whose data change on the way: segments appended, a changed past refused, documents and steps left out."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from torch.nn import functional as F

from data_pipeline.execute.tokenize import tokenize
from data_pipeline.tokenizer import Tokenizer
from launcher.config import RunConfig
from launcher.monitor.events import read_json_lines
from launcher.yaml_config import load
from megamodel.checkpoint import checkpoint_name, load_weights, read_manifest
from megamodel.gpt import GPT
from tests.conftest import events_of, metrics_of, write_run
from tests.ranks import train_in_ranks, training_ranks
from tools.inspect.batch import describe_step, find_document, open_mixture

TOKENS = 8 * 32
"""In one step."""


@pytest.fixture(scope="module")
def sets(tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shard sets `en`, `zh` and `new`, a small one; their documents are en-0, en-1, ... and so on."""
    folder = tmp_path_factory.mktemp("sets")
    tokenizer = Tokenizer.load(tiny_data / "tokenizer")
    for name, source, some in (("en", "en", slice(0, 6)), ("zh", "zh", slice(0, 4)), ("new", "en", slice(6, 12))):
        rows = [json.loads(line) for line in (tiny_data / f"{source}.jsonl").read_text().splitlines()[some]]
        lines = [
            json.dumps({"id": f"{name}-{n}", "text": row["text"][: 300 if name == "new" else 3000]})
            for n, row in enumerate(rows)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines) + "\n")
        tokenize([folder / f"{name}.jsonl"], tokenizer, folder / name)
    return folder


@pytest.fixture
def run(sets: Path, tiny_data: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a run of 20 steps over `sets` into the folder `name` and returns its configuration."""

    def write(name: str, **data: object) -> Path:
        sources = data.pop("sources", {"en": 0.6, "zh": 0.4})
        listed = [{"path": str(sets / key), "weight": weight} for key, weight in sources.items()]
        (tmp_path / name).mkdir(exist_ok=True)
        return write_run(tiny_data, tmp_path / name, data={"sources": listed, **data})

    return write


def essence(folder: Path) -> list[tuple]:
    return [(line["step"], line["samples_digest"], line["loss"]) for line in metrics_of(folder / "run")]


def sources_at(folder: Path, step: int) -> set[str]:
    return {Path(piece["shards"]).name for piece in describe_step(folder / "run", step)["pieces"]}


LATER = {
    "sources": {"en": 0.6, "zh": 0.4, "new": 0},
    "segments": [{"from_token": 11 * TOKENS + 70, "weights": {"new": 3, "zh": 1}}],
}


def test_a_segment_appended_between_stop_and_resume(run: Callable[..., Path], tmp_path: Path):
    """A new source comes, another is dropped: the run is the one that knew of it from its beginning."""
    train_in_ranks(run("a"), "train.stop_at_step=9")
    train_in_ranks(run("a", **LATER))
    train_in_ranks(run("b", **LATER))
    assert essence(tmp_path / "a") == essence(tmp_path / "b")
    assert events_of(tmp_path / "a" / "run", "resumed")[0]["step"] == 9
    assert "data.segments" in events_of(tmp_path / "a" / "run", "config_changed")[0]["changes"]
    train_in_ranks(run("c"))
    assert [line[:2] for line in essence(tmp_path / "c")][:11] == [line[:2] for line in essence(tmp_path / "a")][:11]
    assert sources_at(tmp_path / "a", 11) == {"en", "zh"}
    assert sources_at(tmp_path / "a", 12) == {"en", "zh", "new"}  # the step in which the segment begins
    assert sources_at(tmp_path / "a", 13) == {"new", "zh"}
    ours, plain = (
        [
            (piece["sequence"], piece["shards"], piece["window"])
            for piece in describe_step(tmp_path / n / "run", 12)["pieces"]
        ]
        for n in ("a", "c")
    )
    assert [piece for piece in ours if piece[0] < 3] == [piece for piece in plain if piece[0] < 3]  # 70 > 2 * 32 tokens
    assert not any(shards.endswith("/en") for sequence, shards, _ in ours if sequence >= 3)


def test_each_source_is_read_on_where_it_was(run: Callable[..., Path]):
    mixture = open_mixture(load(run("a", **LATER), RunConfig).value)
    samples = mixture.samples(0, 60 * 8)
    for source, windows in enumerate(mixture.num_windows):
        mine = samples[samples[:, 0] == source, 1].tolist()
        for epoch in range(0, len(mine), windows):
            assert len(set(mine[epoch : epoch + windows])) == len(mine[epoch : epoch + windows])


def test_killed_where_it_changes(run: Callable[..., Path], tmp_path: Path):
    """SIGKILL before, in and after the step in which a segment begins, and beside a skipped one."""
    data = {**LATER, "skip": {"steps": [13], "documents": ["new-0"]}}
    for starts, step in enumerate((10, 12, 14), start=1):
        with training_ranks(run("a", **data)) as (processes, output):  # leaving it kills them
            while count_starts(tmp_path / "a") < starts or last_step(tmp_path / "a") < step:
                assert processes[0].exitcode is None, output.read_text()
                time.sleep(0.002)
    train_in_ranks(run("a", **data))
    train_in_ranks(run("b", **data))
    assert essence(tmp_path / "a") == essence(tmp_path / "b")
    assert len(events_of(tmp_path / "a" / "run", "resumed")) == 3


def count_starts(folder: Path) -> int:
    """How often training has begun or gone on there."""
    return sum(e["event"] in ("started", "resumed") for e in read_json_lines(folder / "run" / "events.jsonl"))


def last_step(folder: Path) -> int:
    """The newest step whose line is whole."""
    lines = read_json_lines(folder / "run" / "metrics.jsonl")
    return lines[-1]["step"] if lines else 0


@pytest.mark.parametrize(
    "change",
    [
        {"sources": {"en": 0.5, "zh": 0.5}},
        {"sources": {"en": 0.6, "zh": 0.4, "new": 0.1}},
        {"sources": {"en": 0.6}},
        {"segments": [{"from_token": 5 * TOKENS, "weights": {"en": 1}}]},
        {"segments": [{"from_token": 9 * TOKENS - 1 - 32, "weights": {"en": 1}}]},  # one sample too early
        {"weighting": {"kind": "temperature", "temperature": 2.0}},
        {"weighting": {"kind": "documents"}},
    ],
    ids=["weights", "added", "dropped", "segment", "one sample", "temperature", "documents"],
)
def test_a_changed_past_is_refused(run: Callable[..., Path], tmp_path: Path, stopped: Path, change: dict):
    shutil.copytree(stopped / "run", tmp_path / "a" / "run")
    output = train_in_ranks(run("a", **change), code=2)
    assert f"the mixture of the {9 * TOKENS:,} tokens up to this checkpoint was from token 0 on" in output
    assert "/en 60%" in output and "/zh 40%" in output
    assert f"data.segments with from_token={9 * TOKENS} or later" in output
    assert "Traceback" not in output


@pytest.fixture(scope="module")
def stopped(sets: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that stands at step 9."""
    folder = tmp_path_factory.mktemp("stopped")
    listed = [{"path": str(sets / "en"), "weight": 0.6}, {"path": str(sets / "zh"), "weight": 0.4}]
    train_in_ranks(write_run(tiny_data, folder, data={"sources": listed}), "train.stop_at_step=9")
    return folder


@pytest.mark.parametrize(
    "change",
    [
        {"segments": [{"from_token": 9 * TOKENS, "weights": {"en": 1}}]},
        {"sources": {"zh": 4, "en": 6}},  # the same shares
        {"segments": [{"from_token": 0, "weights": {"en": 0.6, "zh": 0.4}}]},
        {"segments": [{"from_token": 9 * TOKENS, "weighting": {"kind": "temperature", "temperature": 5}}]},
    ],
    ids=["next sample", "shares", "from zero", "temperature"],
)
def test_an_unchanged_past_is_taken_up(run: Callable[..., Path], tmp_path: Path, stopped: Path, change: dict):
    shutil.copytree(stopped / "run", tmp_path / "a" / "run")
    train_in_ranks(run("a", **change), "train.stop_at_step=10")
    assert [line["step"] for line in metrics_of(tmp_path / "a" / "run")] == list(range(1, 11))


def test_a_checkpoint_from_before_there_were_segments_is_taken_up(
    run: Callable[..., Path], tmp_path: Path, stopped: Path
):
    shutil.copytree(stopped / "run", tmp_path / "a" / "run")
    path = tmp_path / "a" / "run" / "checkpoints" / checkpoint_name(9) / "manifest.json"
    body = json.loads(path.read_text())["manifest"]
    mixture = open_mixture(load(run("a"), RunConfig).value)
    weights = {"en": 0.6, "zh": 0.4}
    del body["data_order"]["segments"]
    body["data_order"]["sources"] = [[shards.digest, weights[shards.prefix.name]] for shards in mixture.sources]
    digest = hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=32).hexdigest()
    path.write_text(json.dumps({"digest": digest, "manifest": body}))
    assert describe_step(tmp_path / "a" / "run", 2)["pieces"]
    train_in_ranks(run("a"), "train.stop_at_step=10")
    assert "was from token 0 on" in train_in_ranks(run("a", sources={"en": 1, "zh": 1}), code=2)


def test_skipped_steps_make_no_update_and_move_nothing(run: Callable[..., Path], tmp_path: Path):
    """Also across stops in the middle of them, with the optimizer's count of updates."""
    skip = {"steps": [1, "4-5", 10, 20]}
    train_in_ranks(run("plain"))
    train_in_ranks(run("a", skip=skip))
    for stop in (5, 6, 11, 20):
        train_in_ranks(run("b", skip=skip), f"train.stop_at_step={stop}")
    plain, a = ({line[0]: line[1] for line in essence(tmp_path / name)} for name in ("plain", "a"))
    assert essence(tmp_path / "a") == essence(tmp_path / "b")
    assert a == {step: digest for step, digest in plain.items() if step not in (1, 4, 5, 10, 20)}
    skipped = events_of(tmp_path / "a" / "run", "skipped")
    assert [(event["step"], event["samples_digest"]) for event in skipped] == [(s, plain[s]) for s in (1, 4, 5, 10, 20)]
    assert [event["step"] for event in events_of(tmp_path / "a" / "run", "validated")] == [0, 10, 20]
    last = [tmp_path / name / "run" / "checkpoints" / checkpoint_name(20) for name in ("a", "b")]
    assert [read_manifest(checkpoint).optimizer_updates for checkpoint in last] == [15, 15]
    ours, theirs = map(load_weights, last)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_skip_list_may_grow_on_the_way(run: Callable[..., Path], tmp_path: Path, stopped: Path):
    shutil.copytree(stopped / "run", tmp_path / "a" / "run")
    skip = {"steps": [12], "documents": ["en-1", "nobody"]}
    output = train_in_ranks(run("a", skip=skip))
    assert "1 of its documents are in none of data.sources, such as 'nobody'; 1 were found" in output
    assert events_of(tmp_path / "a" / "run", "left_out")[0]["documents"] == 1
    assert "data.skip.steps" in events_of(tmp_path / "a" / "run", "config_changed")[0]["changes"]
    train_in_ranks(run("plain"))
    ours, plain = ([line[:2] for line in essence(tmp_path / name)] for name in ("a", "plain"))
    assert ours == [line for line in plain if line[0] != 12]


SKIPPED = {"documents": ["en-0", "zh-1"], "numbers": {"en": ["2-3"]}}


@pytest.mark.parametrize(
    ("ranks", "overrides"),
    [
        (1, []),
        (1, ["train.micro_batch_size=8"]),
        (2, ["engine.name=ddp"]),
        (2, ["engine.name=fsdp"]),
        (2, ["engine.name=deepspeed"]),
        (2, ["engine.name=fsdp", "parallel.pp=2"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else str(value),
)
def test_the_loss_is_over_the_targets_that_are_left(
    run: Callable[..., Path], tmp_path: Path, ranks: int, overrides: list[str]
):
    """Compared with torch's cross-entropy over logits of the initial weights, whatever the layout."""
    config = run("a", skip=SKIPPED)
    train_in_ranks(config, "checkpoint.initial=true", "train.stop_at_step=1", *overrides, ranks=ranks)
    settings = load(config, RunConfig).value
    mixture = open_mixture(settings)
    tokens = torch.from_numpy(mixture.read(mixture.samples(0, 8)))
    model = GPT(settings.model)
    model.load_state_dict(load_weights(tmp_path / "a" / "run" / "checkpoints" / checkpoint_name(0)), strict=False)
    ids = torch.where(tokens < 0, ~tokens, tokens)
    kept = tokens[:, 1:] >= 0
    assert 0 < kept.sum() < kept.numel() and (tokens[tokens < 0] == tokens.min()).all()
    losses = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(kept.shape)
    (line,) = metrics_of(tmp_path / "a" / "run")
    assert line["loss"] == pytest.approx(losses[kept].mean().item(), rel=1e-5)
    assert line["loss"] != pytest.approx(losses.mean().item(), rel=1e-4)


def test_a_run_all_of_whose_documents_are_skipped_makes_no_update(run: Callable[..., Path], tmp_path: Path):
    config = run("a", skip={"numbers": {"en": ["0-5"], "zh": ["0-3"]}})
    output = train_in_ranks(config, "train.stop_at_step=2", "checkpoint.initial=true")
    assert "step 1 makes no update (all its documents are left out)" in output
    first, last = (load_weights(tmp_path / "a" / "run" / "checkpoints" / checkpoint_name(step)) for step in (0, 2))
    assert all(torch.equal(first[name], last[name]) for name in first)


def test_inspection_tells_what_is_left_out(run: Callable[..., Path], tmp_path: Path):
    (tmp_path / "names.txt").write_text("zh-1\n\nen.jsonl:0\n")
    skip = {"documents_file": str(tmp_path / "names.txt"), "steps": [3]}
    train_in_ranks(run("a", skip=skip, **LATER), "train.stop_at_step=4")
    folder = tmp_path / "a" / "run"
    assert events_of(folder, "left_out")[0]["documents"] == 2
    steps = [describe_step(folder, step) for step in range(1, 21)]
    assert [step["step"] for step in steps if step["skipped"]] == [3]
    told = {(piece["id"], piece["skipped"]) for step in steps for piece in step["pieces"]}
    assert {name for name, skipped in told if skipped} == {"zh-1", "en-0"}
    for document in ("zh-1", "en-0", "zh-0", "new-2"):
        expected = {
            (step["step"], piece["sequence"]) for step in steps for piece in step["pieces"] if piece["id"] == document
        }
        visits = find_document(folder, document)
        assert {(visit.step, visit.sequence) for visit in visits} == expected
        assert all(visit.skipped == (document in ("zh-1", "en-0") or visit.step == 3) for visit in visits)


def test_epochs_are_counted_by_source(run: Callable[..., Path], tmp_path: Path):
    config = run("a", **LATER)
    train_in_ranks(config, "monitor.console_every_steps=5", "train.steps=60", "train.stop_at_step=42")
    mixture = open_mixture(load(config, RunConfig).value)
    names = [shards.prefix.name for shards in mixture.sources]
    lines = {line["step"]: line["epochs"] for line in metrics_of(tmp_path / "a" / "run") if "epochs" in line}
    assert list(lines) == [5, 10, 15, 20, 25, 30, 35, 40, 42]
    samples = mixture.samples(0, 42 * 8)
    for source, name in enumerate(names):
        drawn = (samples[:, 0] == source).cumsum()
        for step, epochs in lines.items():
            assert epochs[name] == pytest.approx(drawn[step * 8 - 1] / mixture.num_windows[source], abs=1e-6)
        begun = [drawn.searchsorted(epoch * mixture.num_windows[source] + 1) // 8 + 1 for epoch in range(1, 50)]
        told = [e for e in events_of(tmp_path / "a" / "run", "epoch") if e["source"] == name]
        expected = [(step, epoch + 2) for epoch, step in enumerate(begun) if step <= 42]
        assert [(event["step"], event["epoch"]) for event in told] == expected
    assert len(events_of(tmp_path / "a" / "run", "epoch")) > 2


def test_names_tell_sources_of_one_folder_name_apart(run: Callable[..., Path], tmp_path: Path, sets: Path):
    config = run("a", segments=[{"from_token": 4 * TOKENS, "weights": {"Chinese": 1}}])
    tree = yaml.safe_load(config.read_text())
    tree["data"]["sources"][1]["name"] = "Chinese"
    config.write_text(yaml.safe_dump(tree))
    train_in_ranks(config, "train.stop_at_step=6")
    assert metrics_of(tmp_path / "a" / "run")[-1]["epochs"].keys() == {"en", "Chinese"}
    assert sources_at(tmp_path / "a", 6) == {"zh"}
