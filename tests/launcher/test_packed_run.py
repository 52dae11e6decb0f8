"""Training on packed and rearranged documents: what the model computes of them, and what a run says about them."""

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from data_pipeline.execute import tokenize
from data_pipeline.mixture.packed import PackedWindows
from data_pipeline.shards import ShardSet
from data_pipeline.tokenizer import Tokenizer, train_tokenizer
from launcher.cluster.ranks import Ranks
from launcher.config import RunConfig
from launcher.engines.build import build_engine
from launcher.mixtures import training_mixture
from launcher.physics import check
from launcher.train.data import train_loader
from launcher.yaml_config import load
from tests.conftest import GPT2, LLAMA, ROOT, metrics_of
from tests.ranks import train_in_ranks
from tools.inspect.batch import describe_step, find_document

SENTINELS = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Functions and lines of this very project, and a tokenizer with the tokens of fill-in-the-middle."""
    folder = tmp_path_factory.mktemp("code")
    text = (ROOT / "data_pipeline" / "mixture" / "blend.py").read_text(encoding="utf-8")
    parts = [*text.split("\n\n"), *text.split("\n")]
    rows = [{"id": f"f{n}", "text": part} for n, part in enumerate(parts) if part.strip()]
    (folder / "code.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer = train_tokenizer([text], 320, special_tokens=SENTINELS)
    tokenizer.save(folder / "tokenizer")
    tokenize([folder / "code.jsonl"], tokenizer, folder / "train")
    (folder / "prose.jsonl").write_text(
        "".join(json.dumps({"text": part[::-1]}) + "\n" for part in parts if part.strip())
    )
    tokenize([folder / "prose.jsonl"], tokenizer, folder / "prose")
    return folder


@pytest.fixture
def packed_run(code: Path, tiny_run):
    """A function that writes the configuration of a run on packed code."""

    def write(model=LLAMA, **data) -> Path:
        sources = {"tokenizer": str(code / "tokenizer"), "sources": [{"path": str(code / "train")}], "validation": []}
        packed = {"packing": "best_fit", "separate_documents": True}
        return tiny_run(model=model, data={**sources, **packed, **data}, train={**TRAIN, "seq_len": 64})

    return write


TRAIN = {"steps": 12, "global_batch_size": 8, "micro_batch_size": 2}


@pytest.mark.parametrize("model", [LLAMA, GPT2], ids=["llama", "gpt2"])
def test_the_loss_of_a_packed_sequence_is_that_of_its_documents_alone(packed_run, model):
    config = load(packed_run(model), RunConfig, []).value
    tokenizer = Tokenizer.load(config.data.tokenizer)
    mixture = training_mixture(config, tokenizer.digest)
    engine = build_engine(config, Ranks(0, 1, torch.device("cpu")), tokenizer.eos_id)
    (windows,), (shards,) = mixture.windows, mixture.sources
    crowded = 0
    for number in range(windows.num_windows):
        row = mixture.read(np.array([[0, number]]))
        together = float(engine.evaluate(torch.from_numpy(row)))
        alone, targets = 0.0, 0
        stretches = windows.stretches(number)
        crowded += len(stretches) > 3
        for _, first, length in stretches:
            ids = torch.from_numpy(shards.read(first, length).astype(np.int64))[None]
            with torch.no_grad():
                alone += float(engine.module(ids[:, :-1], ids[:, 1:]))
            targets += length - 1
        assert together / targets == pytest.approx(alone / targets, abs=1e-5)
        assert mixture.num_targets(np.array([[0, number]])) == targets
    assert crowded > 3, "some hold several documents, and padding"


def test_without_separation_documents_do_see_each_other(packed_run):
    """So that the test above could fail."""
    losses = []
    for separate in (True, False):
        config = load(packed_run(separate_documents=separate), RunConfig, []).value
        tokenizer = Tokenizer.load(config.data.tokenizer)
        mixture = training_mixture(config, tokenizer.digest)
        engine = build_engine(config, Ranks(0, 1, torch.device("cpu")), tokenizer.eos_id)
        row = mixture.read(np.array([[0, mixture.num_windows[0] - 1]]))
        losses.append(float(engine.evaluate(torch.from_numpy(row))))
    assert abs(losses[0] - losses[1]) > 1e-3


def essence(run: Path) -> list[tuple]:
    return [(line["step"], round(line["loss"], 5), line["samples_digest"]) for line in metrics_of(run)]


def test_a_packed_and_rearranged_run_is_the_same_however_it_is_cut(packed_run, tmp_path):
    """On one rank, on two, and stopped on the way."""
    config = packed_run(fim={"rate": 0.8})
    train_in_ranks(config)
    two = ("engine.name=ddp", f"run_dir={tmp_path / 'two'}")
    train_in_ranks(config, *two, "train.stop_at_step=5", ranks=2)
    train_in_ranks(config, *two, ranks=2)
    assert len(essence(tmp_path / "run")) == 12
    for one, other in zip(essence(tmp_path / "run"), essence(tmp_path / "two"), strict=True):
        assert (one[0], one[2]) == (other[0], other[2])
        assert one[1] == pytest.approx(other[1], abs=1e-4)


def test_rearranging_is_part_of_the_run(packed_run, tmp_path):
    train_in_ranks(packed_run(fim={}), "train.stop_at_step=5")
    output = train_in_ranks(packed_run(fim={"rate": 0.9}), code=2)
    assert "data.fim was {" in output and "'rate': 0.9" in output and "Set it back" in output
    output = train_in_ranks(packed_run(fim={}, packing="contiguous"), code=2)
    assert "data.packing was best_fit" in output


def test_batches_hold_the_sentinels_at_the_wanted_rate(packed_run):
    config = load(packed_run(fim={"rate": 0.5}), RunConfig, []).value
    tokenizer = Tokenizer.load(config.data.tokenizer)
    loader = train_loader(config, training_mixture(config, tokenizer.digest), tokenizer, 0, 1)
    plain = train_loader(
        load(packed_run(), RunConfig, []).value, training_mixture(config, tokenizer.digest), tokenizer, 0, 1
    )
    sentinels = [tokenizer.special_tokens[token] for token in SENTINELS]
    counts: Counter[int] = Counter()
    for step in range(1, 40):
        batch, as_stored = loader.batch(step), plain.batch(step)
        assert batch.target_tokens == as_stored.target_tokens == np.count_nonzero(batch.tokens[:, 1:] >= 0)
        ids = np.where(batch.tokens < 0, ~batch.tokens, batch.tokens)
        counts.update({token: int((ids == token).sum()) for token in sentinels})
        assert not np.isin(as_stored.tokens, sentinels).any()
    assert len(set(counts.values())) == 1 and counts[sentinels[0]] > 100


def two_sources(code: Path, **fim) -> dict:
    return {"sources": [{"path": str(code / "train")}, {"path": str(code / "prose"), "weight": 2}], "fim": fim}


def test_documents_of_other_sources_stay_as_they_are(packed_run, code):
    config = load(packed_run(**two_sources(code, rate=0.9, sources=["train"])), RunConfig, []).value
    tokenizer = Tokenizer.load(config.data.tokenizer)
    mixture = training_mixture(config, tokenizer.digest)
    loader = train_loader(config, mixture, tokenizer, 0, 1)
    prefix, seen = tokenizer.special_tokens[SENTINELS[0]], Counter[tuple[str, bool]]()
    for step in range(1, 20):
        samples = mixture.samples((step - 1) * 8, 8)
        for (source, _), row in zip(samples.tolist(), loader.batch(step).tokens, strict=True):
            seen[mixture.sources[source].prefix.name, bool(np.isin(row, [prefix, ~prefix]).any())] += 1
    assert seen["train", True] > 10 * seen["train", False] and seen["prose", False] > 50 and not seen["prose", True]


def test_a_source_that_comes_later_may_be_rearranged_and_one_that_was_read_may_not(packed_run, code):
    later = two_sources(code, sources=["train"])
    later["sources"][1]["weight"] = 0
    train_in_ranks(packed_run(**later), "train.stop_at_step=5")
    both = {"from_token": 5 * 8 * 64, "weights": {"train": 1, "prose": 1}}
    more = later | {"segments": [both], "fim": {"sources": ["train", "prose"]}}
    train_in_ranks(packed_run(**more), "train.stop_at_step=7")
    output = train_in_ranks(packed_run(**more | {"fim": {"sources": ["train"]}}), code=2)
    assert f"data.fim.sources has changed for {code / 'prose'}, of which this run has read already" in output


def said(path: Path, severity: str) -> dict[str, str]:
    found = check(load(path, RunConfig, []).value)
    return {problem.setting: problem.message for problem in found if problem.severity == severity}


def test_config_check_knows_what_does_not_go_together(packed_run, tiny_data, code):
    assert said(packed_run(fim={}), "error") == {}
    assert "keeps them apart" in said(packed_run(separate_documents=False), "note")["data.packing"]
    tokens = {"prefix": "<|endoftext|>", "middle": "<PRE>"}
    assert "'<PRE>' is no special token" in said(packed_run(fim=tokens), "error")["data.fim.middle"]
    unknown = said(packed_run(fim={"sources": ["web"]}), "error")["data.fim.sources"]
    assert unknown == "'web' is none of data.sources, which are: train"
    assert "four different" in said(packed_run(fim={"prefix": "<|endoftext|>"}), "error")["data.fim"]
    plain = {"tokenizer": str(tiny_data / "tokenizer"), "sources": [{"path": str(tiny_data / "train")}]}
    found = said(packed_run(fim={}, **plain), "error")["data.fim.prefix"]
    assert "no special token" in found and "<|endoftext|>" in found and "special_tokens" in found


def test_config_check_knows_of_the_plan(packed_run, code):
    for plan in code.glob("train.packed-*"):
        shutil.rmtree(plan)
    path = packed_run()
    messages = [p.message for p in check(load(path, RunConfig, []).value)]
    assert any("plans how to pack" in message and "data inspect" in message for message in messages)
    windows = PackedWindows(ShardSet.open(code / "train"), 64).num_windows
    messages = [p.message for p in check(load(path, RunConfig, []).value)]
    assert not any("plans how to pack" in message for message in messages)
    assert any(f"this run reads {12 * 8 / windows:.1%} of them" in message for message in messages)
    (plan,) = code.glob("train.packed-*")
    (plan / "pieces.bin").write_bytes(b"")
    assert "is damaged" in said(path, "error")["data.sources.0.path"]
    shutil.rmtree(plan)


def test_documents_without_visible_ends_are_told(packed_run, code, tmp_path):
    for file in code.glob("train*"):
        if file.is_file():
            (tmp_path / file.name).write_bytes(file.read_bytes())
    manifest = json.loads((tmp_path / "train.manifest.json").read_text())
    manifest["num_eos_tokens"], manifest["manifest_sha256"] = 3, ""
    (tmp_path / "train.manifest.json").write_text(json.dumps(manifest))
    sources = [{"path": str(tmp_path / "train")}]
    for group, settings in (("sources", {}), ("sources", {"packing": "contiguous"}), ("validation", {})):
        message = said(packed_run(**{group: sources, **settings}), "error")[f"data.{group}.0.path"]
        assert "do not end in the end-of-document token" in message
    assert said(packed_run(validation=sources, separate_documents=False), "error") == {}


def test_a_step_of_a_packed_run_can_be_opened(packed_run, code, tmp_path):
    config_path = packed_run()
    train_in_ranks(config_path, "train.stop_at_step=5")
    config = load(config_path, RunConfig, []).value
    tokenizer = Tokenizer.load(config.data.tokenizer)
    texts = {row["id"]: row["text"] for row in map(json.loads, (code / "code.jsonl").read_text().splitlines())}
    loader = train_loader(config, training_mixture(config, tokenizer.digest), tokenizer, 0, 1)
    for step in (2, 9):
        found, batch = describe_step(tmp_path / "run", step), loader.batch(step)
        assert found["samples_digest"] == batch.samples_digest
        seen = np.zeros(batch.tokens.shape, bool)
        for piece in found["pieces"]:
            first, end = piece["tokens_in_sequence"]
            begin, stop = piece["tokens_in_document"]
            row = batch.tokens[piece["sequence"], first:end]
            ids = [*tokenizer.encode_batch([texts[piece["id"]]])[0].tolist(), tokenizer.eos_id]
            assert np.where(row < 0, ~row, row).tolist() == ids[begin:stop]
            seen[piece["sequence"], first:end] = True
            visits = find_document(tmp_path / "run", piece["id"])
            assert (step, piece["sequence"]) in {(visit.step, visit.sequence) for visit in visits}
        assert (batch.tokens[~seen] == ~tokenizer.eos_id).all(), "what no document fills is padding"
