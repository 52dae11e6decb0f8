"""From a step to its documents and back, on real shards."""

import gzip
import json
import os
import shutil
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.config import PrepareConfig
from data_pipeline.errors import DataError
from data_pipeline.execute import prepare, tokenize
from data_pipeline.mixture import Loader, samples_digest
from data_pipeline.read import read_documents
from data_pipeline.tokenizer import Tokenizer, train_tokenizer
from launcher.config import RunConfig, SourceConfig
from launcher.errors import CheckFailed, UserError
from launcher.yaml_config import dump
from tools.inspect.batch import describe_step, find_document, open_mixture

SAMPLE = Path(__file__).parents[2] / "data_pipeline" / "sample"
STEPS, BATCH = 40, 4


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 short documents; every fifth has no id."""
    lines = (SAMPLE / "en.jsonl").read_text(encoding="utf-8").splitlines()[:40]
    rows = [json.loads(line) for line in lines]
    path = tmp_path_factory.mktemp("corpus") / "docs.jsonl"
    with path.open("w", encoding="utf-8") as file:
        for number, row in enumerate(rows):
            kept = {"text": row["text"][: 100 + 37 * number]} | ({} if number % 5 == 0 else {"id": row["id"]})
            file.write(json.dumps(kept) + "\n")
    return path


@pytest.fixture(scope="module")
def config(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    """A run of about two epochs."""
    out = tmp_path_factory.mktemp("data") / "out"
    settings = {
        "sources": [{"kind": "files", "files": [str(corpus)]}],
        "tokenizer": {"kind": "train", "vocab_size": 400},
        "validation_fraction": 0,
    }
    prepare(PrepareConfig.model_validate({"out": out, **settings}))
    return RunConfig.model_validate(
        {
            "run_dir": out.with_name("run"),
            "model": {
                "vocab_size": 512, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                "intermediate_size": 64,
            },
            "data": {"tokenizer": out / "tokenizer", "sources": [{"path": out / "train"}]},
            "train": {"steps": STEPS, "global_batch_size": BATCH, "micro_batch_size": 2, "seq_len": 128},
            "optimizer": {"lr": 1e-3},
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(config: RunConfig) -> Path:
    config.run_dir.mkdir()
    (config.run_dir / "config.yaml").write_text(dump(config))
    return config.run_dir


def test_the_pieces_of_a_step_are_its_tokens(run: Path, config: RunConfig, corpus: Path):
    tokenizer = Tokenizer.load(config.data.tokenizer)
    texts = {d.identity: d.text for d in read_documents([corpus])}
    loader = Loader(open_mixture(config), BATCH)
    for step in (1, 7, STEPS):
        found, batch = describe_step(run, step), loader.batch(step)
        assert found["samples_digest"] == batch.samples_digest
        assert {piece["sequence"] for piece in found["pieces"]} == set(range(BATCH))
        for sequence in range(BATCH):
            pieces = [piece for piece in found["pieces"] if piece["sequence"] == sequence]
            bounds = [piece["tokens_in_sequence"] for piece in pieces]
            assert bounds[0][0] == 0 and bounds[-1][1] == 129
            assert all(one[1] == other[0] for one, other in pairwise(bounds))
            for piece in pieces:
                check_piece(piece, batch.tokens[sequence], tokenizer, texts)


def check_piece(piece: dict[str, Any], tokens: Any, tokenizer: Tokenizer, texts: dict[str, str]) -> None:
    """Its tokens are those of the text of the document it names, from the place it says."""
    first, end = piece["tokens_in_sequence"]
    (ids,) = tokenizer.encode_batch([texts[piece["id"]]])
    begin, stop = piece["tokens_in_document"]
    assert stop - begin == end - first
    assert tokens[first:end].tolist() == [*ids.tolist(), tokenizer.eos_id][begin:stop]
    assert piece["record"] == list(texts).index(piece["id"])


def test_where_is_the_inverse_of_batch(run: Path, corpus: Path):
    seen: dict[str, set[tuple[int, int]]] = {}
    for step in range(1, STEPS + 1):
        for piece in describe_step(run, step)["pieces"]:
            seen.setdefault(piece["id"], set()).add((step, piece["sequence"]))
    assert max(len(visits) for visits in seen.values()) > 3
    for document in read_documents([corpus]):
        visits = {(visit.step, visit.sequence) for visit in find_document(run, document.identity)}
        assert visits == seen[document.identity]
        by_record = find_document(run, f"docs.jsonl:{document.position}")
        assert {(visit.step, visit.sequence) for visit in by_record} == visits


def test_an_id_that_the_file_no_longer_holds_is_not_believed(run: Path, corpus: Path):
    before = corpus.read_bytes()
    try:
        corpus.write_bytes(before.replace(b'"id": "sotu/', b'"id": "lies/'))
        assert all(piece["id"] is None or "docs.jsonl" in piece["id"] for piece in describe_step(run, 1)["pieces"])
        corpus.unlink()
        assert all(piece["id"] is None for piece in describe_step(run, 1)["pieces"])
    finally:
        corpus.write_bytes(before)


def record_order(run: Path, config: RunConfig) -> None:
    """What a run that has made 5 steps and a checkpoint leaves of its order."""
    mixture = open_mixture(config)
    digests = [samples_digest(Loader(mixture, BATCH).samples(step)) for step in range(1, 6)]
    lines = [json.dumps({"step": step, "samples_digest": digest}) for step, digest in enumerate(digests, start=1)]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    sources = [[shards.digest, 1.0] for shards in mixture.sources]
    for step, order in ((2, [["of an older run", 1.0]]), (5, sources)):
        folder = run / "checkpoints" / f"step_{step:08d}"
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"manifest": {"data_order": {"sources": order}}}))


@pytest.mark.parametrize("left", ["metrics.jsonl", "checkpoints"])
def test_other_data_than_the_run_saw_is_refused(config: RunConfig, tmp_path: Path, left: str):
    out = tmp_path / "out"
    shutil.copytree(config.data.sources[0].path.parent, out)
    data = config.data.model_copy(
        update={"tokenizer": out / "tokenizer", "sources": [SourceConfig(path=out / "train")]}
    )
    mine = config.model_copy(update={"run_dir": tmp_path, "data": data})
    (tmp_path / "config.yaml").write_text(dump(mine))
    record_order(tmp_path, mine)
    for name in {"metrics.jsonl", "checkpoints"} - {left}:
        (tmp_path / name).rename(tmp_path / "elsewhere")
    document = describe_step(tmp_path, 3)["pieces"][0]["id"]
    assert describe_step(tmp_path, STEPS)["pieces"] and find_document(tmp_path, document)

    texts = tmp_path / "other.jsonl"
    texts.write_text("".join(json.dumps({"text": "Other text. " * 50, "id": document}) + "\n" for _ in range(30)))
    tokenize([texts], Tokenizer.load(out / "tokenizer"), out / "train", force=True)
    for look in (lambda: describe_step(tmp_path, 3), lambda: describe_step(tmp_path, STEPS)):
        with pytest.raises(CheckFailed, match=r"out/train.*bring the data back"):
            look()
    with pytest.raises(CheckFailed, match=r"out/train.*bring the data back"):
        find_document(tmp_path, document)


def test_another_tokenizer_than_the_runs_is_refused(run: Path, config: RunConfig):
    train_tokenizer(["other text"], 300).save(run / "tokenizer")
    try:
        with pytest.raises(DataError, match="another tokenizer"):
            describe_step(run, 1)
    finally:
        shutil.rmtree(run / "tokenizer")


def test_mistakes_are_sentences(run: Path, tmp_path: Path):
    for step in (0, STEPS + 1):
        with pytest.raises(UserError, match=f"1 to {STEPS}"):
            describe_step(run, step)
    with pytest.raises(UserError, match="no document 'nobody'"):
        find_document(run, "nobody")
    with pytest.raises(UserError, match="not a run folder"):
        describe_step(tmp_path, 1)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".parquet"])
def test_a_source_file_is_read_once_for_all_its_pieces(
    run: Path, corpus: Path, config: RunConfig, tmp_path: Path, suffix: str
):
    file = tmp_path / f"docs{suffix}"
    if suffix == ".parquet":
        rows = [json.loads(line) for line in corpus.read_text().splitlines()]
        pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=10)
    else:
        file.write_bytes(gzip.compress(corpus.read_bytes()))
    tokenize([file], Tokenizer.load(config.data.tokenizer), tmp_path / "train")
    data = config.data.model_copy(update={"sources": [SourceConfig(path=tmp_path / "train")]})
    (tmp_path / "config.yaml").write_text(dump(config.model_copy(update={"run_dir": tmp_path, "data": data})))
    identities = [document.identity for document in read_documents([file])]
    opened = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and str(arguments[0]) == str(file):
            opened.append(arguments)

    sys.addaudithook(watch)
    pieces = describe_step(tmp_path, 7)["pieces"]
    assert [piece["id"] for piece in pieces] == [identities[piece["record"]] for piece in pieces]
    assert len(opened) <= 1 < len(pieces)


@pytest.mark.parametrize("width", [60, 80])
def test_the_table_cuts_nothing(run: Path, width: int):
    command = [sys.executable, "-m", "launcher", "inspect", "batch", str(run), "--step", "3"]
    environment = {**os.environ, "COLUMNS": str(width)}
    shown = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
    pieces = describe_step(run, 3)["pieces"]
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    assert "…" not in "".join(cell for row in rows for cell in row[:4])
    assert "".join(row[3] for row in rows) == "".join(f"docs.jsonl:{piece['record']}" for piece in pieces)
    assert "".join(row[2] for row in rows) == "".join(piece["id"] for piece in pieces)


def test_the_commands(run: Path):
    def megamodel(*arguments: object) -> str:
        command = [sys.executable, "-m", "launcher", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    found = json.loads(megamodel("inspect", "batch", run, "--step", 3, "--json"))
    assert found == json.loads(json.dumps(describe_step(run, 3)))
    assert found["samples_digest"] in megamodel("inspect", "batch", run, "--step", 3)
    document = found["pieces"][0]["id"]
    visits = json.loads(megamodel("inspect", "where", run, "--doc", document, "--json"))["visits"]
    assert 3 in {visit["step"] for visit in visits}
    assert document in megamodel("inspect", "where", run, "--doc", document)
