"""`megamodel data ...` as a user types it: exit codes, sentences, JSON."""

import json
import subprocess
import sys
from inspect import signature
from pathlib import Path

import pytest

from data_pipeline.shards import TOKENS_PER_SHARD, ShardSet
from data_pipeline.tokenizer import Tokenizer
from launcher.cli import data as command
from tests.data_pipeline.conftest import write_jsonl

CONFIG = """
out: {out}
sources: [{{kind: files, files: [{corpus}]}}]
tokenizer: {{kind: train, vocab_size: 500}}
"""


def megamodel(*arguments: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "launcher", *map(str, arguments)]
    return subprocess.run(line, capture_output=True, text=True, cwd=cwd, check=False)


def fails(code: int, *parts: str, run: subprocess.CompletedProcess[str]) -> None:
    assert run.returncode == code, run.stderr
    assert "Traceback" not in run.stderr + run.stdout
    for part in parts:
        assert part in " ".join(run.stderr.split())


def test_the_way_from_text_to_shards(corpus: Path, tmp_path: Path):
    made = megamodel("data", "train-tokenizer", corpus, "--out", tmp_path / "tokenizer", "--vocab-size", 500)
    assert made.returncode == 0 and "500 tokens" in made.stdout
    prefix = tmp_path / "set"
    written = megamodel("data", "tokenize", corpus, "--tokenizer", tmp_path / "tokenizer", "--out", prefix, "--json")
    assert json.loads(written.stdout)[str(prefix)]["documents"] == 60

    shown = json.loads(megamodel("data", "inspect", prefix, "--documents", 2, "--json").stdout)
    assert shown["tokens"] == ShardSet.open(prefix).num_tokens
    assert [row["record"] for row in shown["first_documents"]] == [0, 1]
    assert shown["first_documents"][0]["text"].startswith("Fellow-Citizens")
    assert "Fellow-Citizens" in megamodel("data", "inspect", prefix).stdout

    assert megamodel("data", "verify", prefix).returncode == 0
    with (tmp_path / "set_00000_text_document.bin").open("r+b") as file:
        file.seek(100)
        file.write(b"\xff\xff")
    broken = megamodel("data", "verify", prefix, "--json")
    fails(1, "set_00000_text_document.bin", "at byte 100", run=broken)
    assert json.loads(broken.stdout)["ok"] is False


def test_a_source_of_which_nothing_can_be_read_is_named(corpus: Path, tmp_path: Path):
    table = tmp_path / "table.csv"
    table.write_text("id,content\n1,one\n2,two\n")
    file = tmp_path / "data.yaml"
    file.write_text(CONFIG.format(out=tmp_path / "out", corpus=corpus))
    both = f"sources=[{{kind: files, files: [{corpus}]}}, {{kind: files, name: tables, files: [{table}]}}]"
    made = megamodel("data", "prepare", file, both, "validation_fraction=0")
    assert made.returncode == 0, made.stderr
    assert "Records that could not be read: 1; they are in" in made.stderr
    assert made.stderr.count("Nothing of the source") == made.stderr.count("Nothing of the source tables could be") == 1


def test_prepare_with_overrides(corpus: Path, tmp_path: Path):
    file = tmp_path / "data.yaml"
    file.write_text(CONFIG.format(out=tmp_path / "out", corpus=corpus))
    arguments = ("data", "prepare", file, "validation_fraction=0.2", "tokenizer.vocab_size=400")
    first, second = megamodel(*arguments), megamodel(*arguments)
    assert first.returncode == second.returncode == 0, first.stderr
    assert "is ready" in first.stdout and "up to date" in second.stdout
    assert ShardSet.open(tmp_path / "out/train").manifest.vocab_size == 400
    assert "is ready" in megamodel(*arguments, "--force").stdout
    fails(
        2, "validation_fractoin", "validation_fraction", run=megamodel("data", "prepare", file, "validation_fractoin=1")
    )


def test_ctrl_c_says_how_to_go_on(corpus: Path, tmp_path: Path):
    file = tmp_path / "data.yaml"
    file.write_text(CONFIG.format(out=tmp_path / "out", corpus=corpus))
    stop = (
        "def stop(document):\n    signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # also in the background
    )
    (tmp_path / "steps.py").write_text(f"import os, signal\n{stop}    os.kill(os.getpid(), signal.SIGINT)\n")
    step = f"clean=[{{step: function, function: {tmp_path / 'steps.py'}:stop}}]"
    run = megamodel("data", "prepare", file, "execution.workers=1", step)
    fails(130, "Stopped. The same command goes on where it was.", run=run)
    assert not (tmp_path / "out").exists()


def test_mistakes_are_sentences(corpus: Path, tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path / "tokenizer")
    out = ("--out", tmp_path / "set")
    end = ("--tokenizer", tmp_path / "tokenizer", *out)
    (tmp_path / "empty.jsonl").touch()
    fails(2, "nothing matches", run=megamodel("data", "tokenize", tmp_path / "no*.jsonl", *end))
    fails(2, "corpus is empty", run=megamodel("data", "tokenize", tmp_path / "empty.jsonl", *end))
    fails(2, "no tokenizer at", run=megamodel("data", "tokenize", corpus, "--tokenizer", "no", *out))
    other_field = megamodel("data", "tokenize", corpus, *end, "--text-field", "body")
    fails(2, "fields here: id, source, lang, text", run=other_field)
    fails(2, "no shard set at", run=megamodel("data", "verify", tmp_path / "set"))
    fails(2, "257", run=megamodel("data", "train-tokenizer", corpus, "--out", tmp_path / "t", "--vocab-size", 10))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty.jsonl", "tokenizer"]


def test_a_tokenizer_is_replaced_only_when_told_to(corpus: Path, tmp_path: Path):
    arguments = ("data", "train-tokenizer", corpus, "--vocab-size")
    out = ("--out", tmp_path / "tokenizer")
    assert megamodel(*arguments, 300, *out).returncode == 0
    fails(2, "holds a tokenizer", "--force", run=megamodel(*arguments, 400, *out))
    assert Tokenizer.load(tmp_path / "tokenizer").vocab_size == 300
    assert megamodel(*arguments, 400, *out, "--force").returncode == 0
    assert Tokenizer.load(tmp_path / "tokenizer").vocab_size == 400
    fails(2, "model-max-length", run=megamodel(*arguments, 300, *out, "--force", "--model-max-length", 0))
    (tmp_path / "file").touch()
    for place in ("/proc/x", tmp_path / "file", tmp_path / "file/below"):
        fails(2, "cannot make the folder", str(place), run=megamodel(*arguments, 300, "--out", place))


def test_a_tiny_validation_set_is_warned_of(corpus: Path, tmp_path: Path):
    file = tmp_path / "data.yaml"
    file.write_text(CONFIG.format(out=tmp_path / "out", corpus=corpus))
    short = write_jsonl(tmp_path / "short.jsonl", [{"text": f"Document {n}."} for n in range(60)])
    done = megamodel("data", "prepare", file, "validation_fraction=0.3", f"sources.0.files=[{short}]")
    tokens = ShardSet.open(tmp_path / "out/validation").num_tokens
    assert tokens < 2049 and f"only {tokens:,} tokens" in done.stderr
    assert "only" not in megamodel("data", "prepare", file, "validation_fraction=0.5").stderr


def test_the_commands_defaults_are_the_librarys():
    assert signature(command.tokenize).parameters["tokens_per_shard"].default == TOKENS_PER_SHARD


@pytest.mark.parametrize("part", ["prepare", "train-tokenizer", "tokenize", "inspect", "verify"])
def test_help_is_there(part: str):
    assert part in megamodel("data", "--help").stdout
    assert megamodel("data", part, "--help").returncode == 0
