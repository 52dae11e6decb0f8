"""A dry run: what would go, and why."""

import json

import pytest

from data_pipeline.clean.dry_run import Example, dry_run
from data_pipeline.clean.step import Rejected
from data_pipeline.config import PrepareConfig
from data_pipeline.errors import DataError
from data_pipeline.read import Document
from tests.data_pipeline.clean.steps import document, settings
from tests.data_pipeline.test_command import megamodel
from tools.inspect.cleaning import clean_sample

STEPS = [settings("whitespace"), settings("length", min_characters=5, max_characters=9), settings("control")]


def documents(*texts: str) -> list[Document]:
    return [
        Document(text, "f.jsonl", number, f"id{number}", 0, "en" if number % 2 else None)
        for number, text in enumerate(texts)
    ]


def test_counts_and_examples():
    run = dry_run(STEPS, documents("fine text", "x", "yy", "zzz", "w" * 10, "same   \n", "to\x00o"), examples=2)
    assert (run.documents, run.kept, run.characters, run.kept_characters) == (7, 1, 37, 9)
    assert run.languages == {"unknown": 1}
    whitespace, length, control = run.steps
    assert (whitespace.seen, whitespace.changed, whitespace.rejected) == (7, 1, {})
    assert whitespace.changes == [Example("id5", "same   \n", "same")]
    assert length.rejected == {"fewer than 5 characters": 5, "more than 9 characters": 1}
    assert length.rejections["fewer than 5 characters"] == [Example("id1", "x"), Example("id2", "yy")]
    assert (control.seen, control.changed) == (1, 0)
    assert whitespace.seconds > 0


def test_an_example_shows_the_place_that_changed():
    long = "a" * 1000 + "\x00" + "b" * 1000
    run = dry_run([settings("control")], [document(long)])
    (example,) = run.steps[0].changes
    assert example.text == "a" * 40 + "\x00" + "b" * 119 and example.after == "a" * 40 + "b" * 120


def test_a_last_step_sees_what_the_others_leave():
    run = dry_run(STEPS, documents("fine text", "x"), last=("decontaminate", lambda document: Rejected("d", "known")))
    assert run.steps[-1].rejected == {"known": 1} and run.steps[-1].seen == 1 and run.kept == 0


CONFIG = """
out: out
sources:
  - {kind: files, files: [a.jsonl, b.jsonl], language: en}
  - {kind: files, files: [c.jsonl]}
clean:
  - step: control
  - {step: length, min_characters: 5}
decontaminate: {files: [evaluation.txt], ngram: 6, shortest: 6}
tokenizer: {kind: train, vocab_size: 300}
"""


def test_documents_without_text_are_counted_apart():
    run = dry_run(STEPS, documents("", " ", "fine text"))
    assert (run.documents, run.empty, run.kept) == (3, 1, 1)
    assert run.steps[0].seen == 2 and run.steps[0].rejected == {"empty": 1}


def test_a_sample_in_which_nothing_is_readable_says_why(tmp_path):
    (tmp_path / "a.csv").write_text("id;text\n1;words\n")
    sources = [{"kind": "files", "files": [str(tmp_path / "a.csv")]}]
    config = {"out": tmp_path / "out", "sources": sources, "tokenizer": {"kind": "train", "vocab_size": 300}}
    with pytest.raises(DataError, match=r"a\.csv, record 0: .*fields here: id;text"):
        clean_sample(PrepareConfig.model_validate(config), 10)


def test_files_of_one_document_give_as_many_as_were_asked_for(tmp_path):
    for number in range(70):
        (tmp_path / f"{number:02d}.txt").write_text(f"text {number}")
    sources = [{"kind": "files", "files": [str(tmp_path)]}]
    config = {"out": tmp_path / "out", "sources": sources, "tokenizer": {"kind": "train", "vocab_size": 300}}
    assert [clean_sample(PrepareConfig.model_validate(config), n).documents for n in (3, 16, 40, 99)] == [3, 16, 40, 70]


def test_the_command(tmp_path):
    for name in ("a", "b"):
        lines = [json.dumps({"text": f"A text of {name}, number {number}.\x1b[31m"}) for number in range(9)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join([*lines[:4], "broken", *lines[4:]]))
    (tmp_path / "c.jsonl").write_text(json.dumps({"text": "tiny"}))
    (tmp_path / "evaluation.txt").write_text("a TEXT of b number 3")
    (tmp_path / "data.yaml").write_text(CONFIG)
    before = sorted(tmp_path.iterdir())
    done = megamodel("data", "prepare", "data.yaml", "--sample", 20, "--json", cwd=tmp_path)
    run = json.loads(done.stdout)
    assert (run["documents"], run["kept"], run["broken"]) == (11, 9, 2)
    assert [(step["name"], step["seen"], step["changed"]) for step in run["steps"]] == [
        ("control", 11, 10),
        ("length", 11, 0),
        ("decontaminate", 10, 0),
    ]
    assert run["steps"][2]["rejected"] == {"text of evaluation.txt": 1}
    shown = megamodel("data", "prepare", "data.yaml", "--sample", 20, cwd=tmp_path).stdout
    assert "could not be read: 2. a.jsonl, record 4: not valid JSON" in " ".join(shown.split())
    assert "9 of 11 documents" in shown and "fewer than 5 characters" in shown and "\x1b[31m" not in shown
    assert sorted(tmp_path.iterdir()) == before
