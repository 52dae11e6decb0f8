"""`data import` and `data export`, and a run that trains on what they made."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from data_pipeline.mixture import Loader
from data_pipeline.shards import ShardSet
from data_pipeline.shards.foreign import bring_in, find
from data_pipeline.tokenizer import Tokenizer
from launcher.config import RunConfig
from launcher.physics import check
from launcher.yaml_config import dump
from tests.data_pipeline import foreign_files as foreign
from tools.inspect.batch import describe_step, find_document, open_mixture


def megamodel(*arguments: object) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "launcher", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, check=False)


@pytest.fixture
def documents(shards: ShardSet) -> list[np.ndarray]:
    spans = [shards.document_span(number) for number in range(shards.num_documents)]
    return [shards.read(span.first, span.end - span.first) for span in spans]


def test_import_inspect_verify_export(documents, tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path / "tokenizer")
    with_tokenizer = ("--tokenizer", tmp_path / "tokenizer")
    folder = foreign.write(tmp_path / "in", foreign.datatrove([*documents, np.array([5, 6])]))
    made = megamodel("data", "import", folder, *with_tokenizer, "--json")
    shown = json.loads(made.stdout)[str(folder)]
    assert (shown["origin"], shown["documents"], shown["bytes_per_token"]) == ("datatrove", len(documents) + 1, None)
    assert f"1 of {len(documents) + 1} documents do not end" in made.stderr
    found = json.loads(megamodel("data", "inspect", folder, *with_tokenizer, "--documents", 1, "--json").stdout)
    assert found["first_documents"][0]["text"].startswith("Fellow-Citizens")
    assert found["first_documents"][0]["source"].endswith("in/00000_tokens.ds")
    assert megamodel("data", "verify", folder).returncode == 0
    sent = megamodel("data", "export", folder, tmp_path / "out", "--format", "mds", "--json")
    assert json.loads(sent.stdout)["samples"] == len(documents) + 1


def test_mistakes_are_sentences(documents, tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path / "tokenizer")
    raw = foreign.write(tmp_path / "raw", {"part.npy": foreign.dolma(documents)["part-0-00000.npy"]})
    for arguments, message in (
        (("import", raw, "--tokenizer", tmp_path / "tokenizer"), "give --dtype"),
        (("export", raw / "part", tmp_path / "out", "--format", "mds"), "`megamodel data import"),
        (("import", tmp_path / "none", "--tokenizer", tmp_path / "tokenizer"), "there are no token files"),
    ):
        done = megamodel("data", *arguments)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert message in " ".join(done.stderr.split())


def test_a_run_on_files_of_others(documents, tokenizer: Tokenizer, tmp_path: Path):
    """The configuration is sound, a step's pieces are the tokens of their documents, and documents lead to steps."""
    tokenizer.save(tmp_path / "tokenizer")
    half = len(documents) // 2
    first = foreign.write(tmp_path / "dolma", foreign.dolma(documents[:half]))
    second = foreign.write(tmp_path / "books", foreign.megatron(documents[half:], "int32", sequences=2))
    sources = [{"path": bring_in(find(folder), tokenizer).prefix} for folder in (first, second)]
    config = RunConfig.model_validate(
        {
            "run_dir": tmp_path / "run",
            "model": {
                "vocab_size": 640, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
                "intermediate_size": 64,
            },
            "data": {"tokenizer": tmp_path / "tokenizer", "sources": sources},
            "train": {"steps": 500, "global_batch_size": 4, "micro_batch_size": 2, "seq_len": 128},
            "optimizer": {"lr": 1e-3},
        }
    )  # fmt: skip
    assert [p for p in check(config) if p.setting.startswith("data.") and p.severity == "error"] == []
    config.run_dir.mkdir()
    (config.run_dir / "config.yaml").write_text(dump(config))
    tokens = Loader(open_mixture(config), 4).batch(3).tokens
    pieces = describe_step(config.run_dir, 3)["pieces"]
    assert {Path(piece["source"]).name for piece in pieces} >= {"file.json.gz", "books_text_document.bin"}
    for piece in pieces:
        imported = piece["source"].endswith(".bin")
        document = documents[piece["record"] + half * imported]
        (a, b), (c, d) = piece["tokens_in_sequence"], piece["tokens_in_document"]
        np.testing.assert_array_equal(tokens[piece["sequence"], a:b], document[c:d])
        name = piece["id"] if imported else f"doc-{piece['record'] + 1}"
        assert any(visit.step == 3 for visit in find_document(config.run_dir, name)), piece


DATATROVE = """
import sys
from datatrove.executor import LocalPipelineExecutor
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
for name, options in (
    ("plain", {"shuffle_documents": False}), ("shuffled", {"max_tokens_per_file": 4000}), ("bare", {"save_index": False,
    "shuffle_documents": False}),
):
    LocalPipelineExecutor(pipeline=[
        JsonlReader(sys.argv[1], glob_pattern="corpus.jsonl"),
        DocumentTokenizer(
            f"{sys.argv[2]}/{name}", f"{sys.argv[3]}/tokenizer.json", eos_token="<|endoftext|>", **options
        ),
    ], logging_dir=f"{sys.argv[2]}/log-{name}").run()
"""
DOLMA = """
import sys
from dolma.tokenizer.executor import tokenize_in_parallel
if __name__ == "__main__":
    tokenize_in_parallel(
        sources=[f"{sys.argv[1]}/corpus.jsonl.gz"], destination=f"{sys.argv[2]}/plain", num_readers=1, local_shuffle=50,
        ring_size=2, tokenizer_name_or_path=f"{sys.argv[3]}/tokenizer.json", eos_token_id=int(sys.argv[4]),
        pad_token_id=int(sys.argv[4]), max_size=40000, metadata_dir=f"{sys.argv[2]}/metadata",
    )
"""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "program"), [("datatrove", DATATROVE), ("dolma", DOLMA)])
def test_what_their_own_writers_write_is_read(shards, corpus: Path, tokenizer, tmp_path: Path, name: str, program: str):
    """Needs datatrove or dolma in an environment of its own: MEGAMODEL_DATATROVE_PYTHON, MEGAMODEL_DOLMA_PYTHON.

    `MEGAMODEL_DOLMA_PYTHON=~/dolma/bin/python pytest -m slow tests/data_pipeline/test_formats_command.py`
    """
    variable = f"MEGAMODEL_{name.upper()}_PYTHON"
    if variable not in os.environ:
        pytest.skip(f"{variable} names no interpreter")
    rows = [json.loads(line) for line in corpus.read_text().splitlines()]
    text = "".join(json.dumps({**row, "text": row["text"].strip()}) + "\n" for row in rows)
    (tmp_path / "in").mkdir()
    (tmp_path / "in/corpus.jsonl").write_text(text)
    subprocess.run(["gzip", "-k", str(tmp_path / "in/corpus.jsonl")], check=True)
    tokenizer.save(tmp_path / "tokenizer")
    (tmp_path / "run.py").write_text(program)
    arguments = [str(tmp_path / part) for part in ("in", "out", "tokenizer")]
    command = [os.environ[variable], str(tmp_path / "run.py"), *arguments, str(tokenizer.eos_id)]
    subprocess.run(command, check=True, capture_output=True)
    expected = {(*tokenizer.encode_batch([row["text"].strip()])[0].tolist(), tokenizer.eos_id) for row in rows}
    for folder in {path.parent for path in (tmp_path / "out").glob("*/*") if path.suffix in (".ds", ".npy")}:
        done = bring_in(find(folder), tokenizer)
        found = ShardSet.open(done.prefix)
        spans = [found.document_span(number) for number in range(found.num_documents)]
        assert {tuple(found.read(span.first, span.end - span.first).tolist()) for span in spans} == expected, folder
