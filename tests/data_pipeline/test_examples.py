"""The example configurations on small corpora of their kind, and the page that each leaves."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_pipeline.config import PrepareConfig
from data_pipeline.execute import Prepared, prepare
from launcher.errors import UserError
from launcher.yaml_config import load
from tests.data_pipeline.conftest import SAMPLE

ROOT = Path(__file__).parents[2]


def run(name: str, folder: Path, files: list[Path], *changes: str) -> tuple[Prepared, dict]:
    paths = [f"sources.{number}.files=[{path}]" for number, path in enumerate(files)]
    small = ["tokenizer.vocab_size=1000", "validation_fraction=0.1", "execution.workers=1"]
    changes = (f"out={folder}/out", *paths, *small, *changes)
    done = prepare(load(ROOT / f"configs/data/{name}.yaml", PrepareConfig, list(changes)).value)
    return done, json.loads((folder / "out/counts.json").read_text())


def page(body: str) -> str:
    menu = "<nav><ul><li><a href='/'>Home</a></li><li><a href='/x'>About us and more</a></li></ul></nav>"
    return f"<!doctype html><html><head><title>T</title></head><body>{menu}<article>{body}</article></body></html>"


def warc(pages: list[str]) -> bytes:
    """A WARC file of responses, as a crawler writes it."""
    records = []
    for number, text in enumerate(pages):
        http = b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n" + text.encode()
        head = (
            "WARC/1.0\r\nWARC-Type: response\r\n"
            f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012d}>\r\n"
            f"WARC-Target-URI: http://example.org/{number}\r\nWARC-Date: 2024-01-01T00:00:00Z\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
        )
        records.append(head.encode() + http + b"\r\n\r\n")
    return b"".join(records)


def english_pages(count: int) -> list[str]:
    rows = [json.loads(line) for line in (SAMPLE / "en.jsonl").read_text().splitlines()[:count]]
    return [page("".join(f"<p>{part}</p>" for part in row["text"].split("\n\n"))) for row in rows]


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Prepared, dict]:
    """40 pages of prose, one of them twice; a page of Chinese, one of nothing; prepared as the example says."""
    folder = tmp_path_factory.mktemp("crawl")
    pages = english_pages(40)
    chinese = [json.loads(line)["text"] for line in (SAMPLE / "zh.jsonl").read_text().splitlines()[:20]]
    pages += [pages[3], page("<p>" + "</p><p>".join(chinese) + "</p>"), page("<p>Sign in</p>")]
    (folder / "crawl.warc").write_bytes(warc(pages))
    return folder, *run("web-crawl", folder, [folder / "crawl.warc"])


def test_a_web_crawl(crawl: tuple[Path, Prepared, dict]):
    _, done, counts = crawl
    assert counts["sources"]["crawl"]["documents"] == 43
    assert counts["duplicates"]["crawl"] == {"exact": 1}
    rejected = counts["rejected"]
    assert sum(number for reason, number in rejected.items() if reason.startswith("language: ")) >= 1
    kept = sum(manifest.num_documents for manifest in done.sets.values())
    assert kept == 43 - 1 - sum(rejected.values()) and kept >= 25


def test_english_and_chinese(tmp_path: Path):
    for name in ("en", "zh"):
        (tmp_path / name).mkdir()
        shutil.copy(SAMPLE / f"{name}.jsonl", tmp_path / name)
    _, counts = run("english-chinese", tmp_path, [tmp_path / "en", tmp_path / "zh"])
    for source, language in (("english", "en"), ("chinese", "zh")):
        kept = counts["sources"][source]
        assert kept["kept"] > 0.7 * kept["documents"], counts["rejected"]
        assert counts["by_language"][language]["documents"] == counts["tokenized"][source]["documents"]


def test_code(tmp_path: Path):
    files = sorted((ROOT / "data_pipeline").rglob("*.py"))
    rows = [{"content": path.read_text(), "path": str(path)} for path in files]
    rows += [{"content": "0.123, 4.567, 8.9\n" * 200, "path": "numbers.py"}, {**rows[5], "path": "copy.py"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "code.parquet")
    done, counts = run("code", tmp_path, [tmp_path / "code.parquet"])
    assert counts["sources"]["code"]["kept"] > 0.8 * len(files)
    assert any("characters: " in reason for reason in counts["rejected"])
    assert counts["duplicates"]["code"]["exact"] == 1
    assert {"<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"} <= set(done.tokenizer.special_tokens)


class Reader(HTMLParser):
    """Notes what a page would fetch and whether its tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.fetched += [value for name, value in attrs if name in ("src", "href") and value]
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_tells_everything_and_fetches_nothing(crawl: tuple[Path, Prepared, dict]):
    _, done, counts = crawl
    text = done.report.read_text()
    reader = Reader()
    reader.feed(text)
    assert not reader.open and not reader.fetched
    assert not re.search(r"https?:|<script|@import|url\(", text)
    for part in (
        "<h2>Sources",
        "14 bands of 8 MinHashes",
        "<h2>Why documents were rejected",
        "<h2>Duplicates",
        "<h2>Languages",
        "slowest stage",
    ):
        assert part in text
    for reason, number in counts["rejected"].items():
        assert reason.split(": ")[0] in text and f">{number}<" in text
    # One page is a duplicate: it has a language and a length in bytes, and is in no shard.
    passing, kept = sum(counts["languages"].values()), sum(manifest.num_documents for manifest in done.sets.values())
    assert passing == sum(counts["bytes_of_documents"]) == kept + 1 == sum(counts["tokens_of_documents"]) + 1
    assert "<h2>Languages</h2>\n<p>Of the documents that pass cleaning" in text
    assert "Length in bytes</h2><p>Documents that pass cleaning" in text
    assert "Length in tokens</h2><p>Documents in the shards" in text and "bytes a token" in text


def test_hostile_texts_stay_texts_in_the_page(tmp_path: Path):
    evil = "<script>alert(1)</script> \x00\x1b " + "word " * 3
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"id": f"<img src=x>{n}", "text": evil}) + "\n" for n in range(3))
        + json.dumps({"text": "A real document of some words, long enough to stay. " * 9})
        + "\n"
        + json.dumps({"text": "1234 " * 99})
    )
    (tmp_path / "b.jsonl").touch()
    config = {
        "out": tmp_path / "out",
        "sources": [
            {"kind": "files", "name": "without a document", "files": [str(tmp_path / "b.jsonl")]},
            {"kind": "files", "name": "<b>name", "files": [str(tmp_path / "a.jsonl")]},
        ],
        "clean": [{"step": "length", "min_units": 2}, {"step": "length", "min_units": 50}, {"step": "characters"}],
        "tokenizer": {"kind": "train", "vocab_size": 300},
        "validation_fraction": 0,
    }
    text = prepare(PrepareConfig.model_validate(config)).report.read_text()
    assert "&lt;script&gt;alert(1)" in text and "<script" not in text and "<img" not in text and "<b>name" not in text
    assert "\u2400\u241b" in text and "\x00" not in text and "\x1b" not in text
    assert 0 < text.find(">without a document<") < text.index("&lt;b&gt;name")
    assert text.index(">pass length 2<") < text.index(">pass characters<")


def test_a_step_that_could_never_apply_is_refused():
    changes = ["clean=[{step: gopher_quality, languages: [en]}]"]
    with pytest.raises(UserError, match=r"clean\.0 is for documents in en, but no language is known"):
        load(ROOT / "configs/data/quickstart.yaml", PrepareConfig, changes)
    load(ROOT / "configs/data/quickstart.yaml", PrepareConfig, [*changes, "sources.0.language=en"])
    load(
        ROOT / "configs/data/quickstart.yaml", PrepareConfig, ["clean=[{step: language}, {step: c4, languages: [en]}]"]
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("out=/", "out: is the root of the file system"),
        ("out=LOOP", "out: is a link that leads to itself"),
        ("execution.ray_address=auto", "ray_address belongs to driver=ray, but that is local"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(change: str, told: str, tmp_path: Path):
    (tmp_path / "loop").symlink_to("loop")
    change = change.replace("LOOP", f"{tmp_path}/loop")
    with pytest.raises(UserError, match=told):
        load(ROOT / "configs/data/quickstart.yaml", PrepareConfig, [change])


@pytest.mark.slow
def test_a_browser_shows_it_on_a_phone(crawl: tuple[Path, Prepared, dict], tmp_path: Path):
    """With Chromium: nothing is wider than 390 pixels but the tables, which scroll by themselves."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no Chromium here")
    probe = "<script>document.title = document.documentElement.scrollWidth + ' of ' + innerWidth</script>"
    copy = tmp_path / "report.html"
    copy.write_text(crawl[1].report.read_text().replace("</body>", probe + "</body>"))
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
    flags += [f"--user-data-dir={tmp_path}/profile", "--window-size=500,900", "--dump-dom"]
    done = subprocess.run([chromium, *flags, copy.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    width, window = re.search(r"<title>(\d+) of (\d+)</title>", done.stdout).groups()
    assert int(width) <= int(window)
