"""`prepare`: whole or not at all, once and not twice, the same bytes every time."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from data_pipeline.config import PrepareConfig
from data_pipeline.errors import DataError
from data_pipeline.execute import prepare
from data_pipeline.files import folder_aside
from data_pipeline.read import read_documents
from data_pipeline.shards import ShardSet, verify
from data_pipeline.tokenizer import Tokenizer

ROOT = Path(__file__).parents[2]


def config(corpus: Path, out: Path, **changes) -> PrepareConfig:
    settings = {
        "out": out,
        "sources": [{"kind": "files", "files": [str(corpus)]}],
        "tokenizer": {"kind": "train", "vocab_size": 500},
        "validation_fraction": 0.2,
    }
    return PrepareConfig.model_validate({**settings, **changes})


def contents(folder: Path) -> dict[str, bytes]:
    """Everything but the report, which tells times, and what an unfinished run would go on with."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and ".work/" not in str(path))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.suffix != ".html"}


def ids(prefix: Path) -> set[str]:
    shards = ShardSet.open(prefix)
    documents = {d.position: d.identity for d in read_documents([Path(shards.manifest.sources[0].name)])}
    return {documents[shards.provenance(number).position] for number in range(shards.num_documents)}


def test_every_document_is_on_one_side(corpus: Path, tmp_path: Path):
    done = prepare(config(corpus, tmp_path / "out"))
    train, validation = ids(tmp_path / "out/train"), ids(tmp_path / "out/validation")
    assert train | validation == {d.identity for d in read_documents([corpus])}
    assert not train & validation and 3 < len(validation) < 25
    assert verify(tmp_path / "out/train") == verify(tmp_path / "out/validation") == []
    tokenizer = Tokenizer.load(tmp_path / "out/tokenizer")
    assert {manifest.tokenizer_sha256 for manifest in done.sets.values()} == {tokenizer.digest}
    assert {p.name for p in tmp_path.iterdir()} <= {"out", "out.report.html"}


def test_adding_documents_moves_no_other(corpus: Path, tmp_path: Path):
    prepare(config(corpus, tmp_path / "one"))
    grown = tmp_path / "grown.jsonl"
    grown.write_text('{"id": "new", "text": "A new document."}\n' + corpus.read_text())
    prepare(config(grown, tmp_path / "two"))
    assert ids(tmp_path / "two/validation") - {"new"} == ids(tmp_path / "one/validation")


def test_a_second_run_does_nothing(corpus: Path, tmp_path: Path):
    settings = config(corpus, tmp_path / "out")
    assert not prepare(settings).up_to_date
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    assert prepare(settings).up_to_date
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


@pytest.mark.parametrize(
    "change",
    [
        lambda corpus, out: os.utime(corpus, ns=(1, 1)),
        lambda corpus, out: corpus.with_name("evaluation.txt").write_text("a b c d e f g h j"),
        lambda corpus, out: (out / "validation_00000_text_document.idx").unlink(),
        lambda corpus, out: (out / "train_00000_text_document.bin").write_bytes(b"short"),
        lambda corpus, out: (out / "tokenizer/tokenizer.json").unlink(),
        lambda corpus, out: (out / "broken.jsonl").write_text("of another run"),
        lambda corpus, out: (out / "counts.json").unlink(),
        lambda corpus, out: (out / "counts.json").write_text('{"sources": [1]}'),
        lambda corpus, out: (out / "prepared.json").write_text("[" * 100_000),
    ],
)
def test_it_is_made_again_when_something_changed(corpus: Path, tmp_path: Path, change):
    copy = tmp_path / "corpus.jsonl"
    copy.write_bytes(corpus.read_bytes())
    (tmp_path / "evaluation.txt").write_text("a b c d e f g h i")
    settings = config(copy, tmp_path / "out", decontaminate={"files": [f"{tmp_path}/evaluation.txt"]})
    prepare(settings)
    change(copy, tmp_path / "out")
    assert not prepare(settings).up_to_date
    assert verify(tmp_path / "out/train") == verify(tmp_path / "out/validation") == []
    assert prepare(settings).up_to_date
    assert not prepare(settings, force=True).up_to_date
    assert not prepare(config(copy, tmp_path / "out", split_seed=7)).up_to_date


def test_the_same_bytes_on_any_number_of_cores(corpus: Path, tmp_path: Path):
    code = (
        "import sys; from data_pipeline.config import PrepareConfig; from data_pipeline.execute import prepare;"
        "prepare(PrepareConfig.model_validate_json(sys.argv[1]))"
    )
    for threads in ("1", "2"):
        settings = config(corpus, tmp_path / threads).model_dump_json()
        subprocess.run(
            [sys.executable, "-c", code, settings], env={**os.environ, "RAYON_NUM_THREADS": threads}, check=True
        )
    assert contents(tmp_path / "1") == contents(tmp_path / "2")
    assert len(contents(tmp_path / "1")) == 12


def test_an_existing_tokenizer_and_no_validation(corpus: Path, tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path / "tokenizer")
    choice = {"kind": "load", "path": tmp_path / "tokenizer"}
    done = prepare(config(corpus, tmp_path / "out", tokenizer=choice, validation_fraction=0))
    assert list(done.sets) == ["train"] and done.tokenizer.digest == tokenizer.digest
    assert not list((tmp_path / "out").glob("validation*"))


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (
            '{"id": "d", "text": "fine"}\nnot json\n',
            "1 of 2 records cannot be read.*bad.jsonl, record 1 .byte 28.: not valid JSON",
        ),
        ("", "corpus is empty"),
        ('{"text": ""}\n', "corpus is empty"),
        ('{"content": "x"}\n', "corpus is empty.* could not be read: 1.*set text_field"),
        ('{"text": "only one"}\n', "validation_fraction=0.2 splits 1 documents"),
    ],
)
def test_bad_input_leaves_nothing_and_keeps_what_was(corpus: Path, tmp_path: Path, text: str, part: str):
    prepare(config(corpus, tmp_path / "out"))
    before = contents(tmp_path)
    bad = tmp_path / "bad.jsonl"
    for out in ("out", "other"):
        bad.write_text(text)
        with pytest.raises(DataError, match=part):
            prepare(config(bad, tmp_path / out, max_broken_records=0))
        bad.unlink()
        assert contents(tmp_path) == before


def test_a_folder_with_other_things_is_not_replaced(corpus: Path, tmp_path: Path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(DataError, match=r"mine\.txt"):
        prepare(config(corpus, tmp_path))
    assert (tmp_path / "mine.txt").read_text() == "precious"


@pytest.mark.parametrize("name", ["train.jsonl", "tokenizer_notes.md", "validation.bin", "tokenizer/mine.json"])
def test_a_name_that_resembles_ours_is_not_ours(corpus: Path, tmp_path: Path, name: str):
    prepare(config(corpus, tmp_path / "out"))
    (tmp_path / "out" / name).write_text("precious")
    with pytest.raises(DataError, match=name):
        prepare(config(corpus, tmp_path / "out"), force=True)
    assert (tmp_path / "out" / name).read_text() == "precious"


def test_what_others_made_under_our_names_is_not_ours(corpus: Path, tokenizer: Tokenizer, tmp_path: Path):
    tokenizer.save(tmp_path / "out/tokenizer")
    with pytest.raises(DataError, match="out holds tokenizer, which"):
        prepare(config(corpus, tmp_path / "out"))
    assert Tokenizer.load(tmp_path / "out/tokenizer").digest == tokenizer.digest


def test_an_input_inside_the_folder_is_refused(corpus: Path, tokenizer: Tokenizer, tmp_path: Path):
    inside = tmp_path / "out" / "train.jsonl"
    inside.parent.mkdir()
    inside.write_bytes(corpus.read_bytes())
    (tmp_path / "link.jsonl").symlink_to(inside)
    for file in (inside, tmp_path / "link.jsonl"):
        with pytest.raises(DataError, match="lies inside"):
            prepare(config(file, tmp_path / "out"))
    tokenizer.save(tmp_path / "out/tokenizer")
    with pytest.raises(DataError, match="lies inside"):
        prepare(config(corpus, tmp_path / "out", tokenizer={"kind": "load", "path": tmp_path / "out/tokenizer"}))
    assert inside.read_bytes() == corpus.read_bytes()


def test_a_run_reads_nothing_that_an_earlier_one_wrote(corpus: Path, tmp_path: Path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/corpus.jsonl").write_bytes(corpus.read_bytes())
    with pytest.raises(DataError, match=r"lies inside .*in, a folder of the sources"):
        prepare(config(tmp_path / "in", tmp_path / "in/out"))
    assert [path.name for path in (tmp_path / "in").iterdir()] == ["corpus.jsonl"]
    (tmp_path / "out.report.html").write_text("<p>text</p>")
    with pytest.raises(DataError, match=r"lies inside .*report"):
        prepare(config(tmp_path / "*.html", tmp_path / "out"))


def test_folders_beside_it_stay(corpus: Path, tmp_path: Path):
    prepare(config(corpus, tmp_path / "out"))
    for name in ("out.old", "out.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("precious")
    prepare(config(corpus, tmp_path / "out"), force=True)
    assert {"out", "out.old", "out.partial"} <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "out.old/mine.txt").read_text() == (tmp_path / "out.partial/mine.txt").read_text() == "precious"


def test_a_work_folder_of_others_is_not_ours(corpus: Path, tmp_path: Path):
    (tmp_path / "out.work").mkdir()
    (tmp_path / "out.work/mine.txt").write_text("precious")
    with pytest.raises(DataError, match=r"out\.work.*holds other files"):
        prepare(config(corpus, tmp_path / "out"))
    assert (tmp_path / "out.work/mine.txt").read_text() == "precious"


def test_only_one_at_a_time(corpus: Path, tmp_path: Path):
    with folder_aside(tmp_path / "out"), pytest.raises(DataError, match=r"another process is writing .*out"):
        prepare(config(corpus, tmp_path / "out"))
    assert not prepare(config(corpus, tmp_path / "out")).up_to_date


KILLED = """
import os, signal, sys
from pathlib import Path
from data_pipeline.config import PrepareConfig
from data_pipeline.execute import prepare
rename = Path.rename
def dying(path, target):
    if path.name == "new":
        os.kill(os.getpid(), signal.SIGKILL)
    return rename(path, target)
Path.rename = dying
prepare(PrepareConfig.model_validate_json(sys.argv[1]), force=True)
"""


def test_a_kill_while_it_is_put_in_place_loses_nothing(corpus: Path, tmp_path: Path):
    settings = config(corpus, tmp_path / "out")
    prepare(settings)
    before = contents(tmp_path / "out")
    done = subprocess.run([sys.executable, "-c", KILLED, settings.model_dump_json()], check=False)
    assert done.returncode == -signal.SIGKILL and not (tmp_path / "out").exists()
    bad = tmp_path / "bad.jsonl"
    bad.write_text("not json")
    with pytest.raises(DataError, match="corpus is empty"):
        prepare(config(bad, tmp_path / "out"))
    assert contents(tmp_path / "out") == before
    prepare(settings, force=True)
    assert contents(tmp_path / "out") == before and not (tmp_path / "out.work").exists()


def test_a_kill_while_it_is_put_in_place_mixes_no_settings(corpus: Path, tmp_path: Path):
    kinds = [config(corpus, tmp_path / "out", tokens_per_shard=tokens) for tokens in (2000, 1500)]
    for settings in kinds:
        subprocess.run([sys.executable, "-c", KILLED, settings.model_dump_json()], check=False)
    for number, settings in enumerate(kinds):
        prepare(settings.model_copy(update={"out": tmp_path / str(number)}))
        prepare(settings)
        assert contents(tmp_path / "out") == contents(tmp_path / str(number))


def test_a_kill_at_the_very_beginning_is_no_folder_of_others(corpus: Path, tmp_path: Path):
    (tmp_path / "out.work").mkdir()
    (tmp_path / "out.work/config.json.partial").write_text("{")
    assert not prepare(config(corpus, tmp_path / "out")).up_to_date


def test_the_quickstart_configuration_prepares_the_sample_corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(ROOT)
    settings = yaml.safe_load((ROOT / "configs/data/quickstart.yaml").read_text())
    done = prepare(PrepareConfig.model_validate({**settings, "out": tmp_path / "out"}))
    text_bytes = sum(manifest.text_bytes for manifest in done.sets.values())
    assert 3e6 < text_bytes < 6e6
    assert 0.02 < done.sets["validation"].text_bytes / text_bytes < 0.1
    assert done.tokenizer.vocab_size == settings["tokenizer"]["vocab_size"]


def test_the_home_folder_is_meant(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = config(
        corpus,
        Path("~/out"),
        sources=[{"kind": "files", "files": ["~/*.jsonl", "a~b"]}],
        tokenizer={"kind": "load", "path": "~/t"},
    )
    assert (settings.out, settings.tokenizer.path) == (tmp_path / "out", tmp_path / "t")
    assert settings.sources[0].files == [f"{tmp_path}/*.jsonl", "a~b"]
    with pytest.raises(ValueError, match="no home folder for ~nobody-here"):
        config(corpus, Path("~nobody-here/out"))


def test_memory_for_a_few_documents_a_task_is_refused(corpus: Path, tmp_path: Path):
    """Whoever means MiB would get a task for every document."""
    with pytest.raises(ValueError, match="memory_per_worker"):
        config(corpus, tmp_path / "out", execution={"memory_per_worker": 1024})


def test_every_setting_is_documented():
    for model in (PrepareConfig, *PrepareConfig.model_fields["tokenizer"].annotation.__args__):
        undocumented = [name for name, field in model.model_fields.items() if not field.description]
        assert not undocumented, undocumented


def test_the_sample_corpus_is_what_its_page_says():
    page = (ROOT / "data_pipeline/sample/README.md").read_text(encoding="utf-8")
    for name in ("en", "zh"):
        lines = (ROOT / f"data_pipeline/sample/{name}.jsonl").read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        assert len({row["id"] for row in rows}) == len(rows)
        assert {row["lang"] for row in rows} == {name}
        assert f"| {len(rows)} | {sum(len(row['text'].encode()) for row in rows) / 1e6:.1f} MB |" in page
