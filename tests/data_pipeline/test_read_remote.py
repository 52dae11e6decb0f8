"""Files behind URLs, and Hugging Face datasets: the documents of a file of this machine, or one sentence."""

import ast
import contextlib
import functools
import gzip
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest

from data_pipeline.errors import DataError
from data_pipeline.read import Broken, Place, expand, is_local, read, read_identities, scan, shown
from data_pipeline.read.settings import DatasetSource, FilesSource
from tests.data_pipeline.read_samples import FEW, SAMPLES, TEXTS


def files(*urls: str, **settings) -> FilesSource:
    return FilesSource(kind="files", files=list(urls), **settings)


def dataset(name: Path | str, **settings) -> DatasetSource:
    return DatasetSource(kind="dataset", dataset=str(name), **settings)


class Whole(http.server.SimpleHTTPRequestHandler):
    """Sends files whole, whatever part is asked for."""

    def log_message(self, format: str, *args: object) -> None:
        """Print nothing."""


class Parts(Whole):
    """Sends the part that is asked for."""

    def do_GET(self) -> None:
        if not Path(self.translate_path(self.path)).exists():
            self.send_error(404)
            return
        first, last = map(int, self.headers.get("Range", "bytes=0-999999999").removeprefix("bytes=").split("-"))
        data = Path(self.translate_path(self.path)).read_bytes()
        part = data[first : last + 1]
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{first + len(part) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)


class Cut(Whole):
    """Hangs up in the middle of a file."""

    def copyfile(self, source: Any, outputfile: Any) -> None:
        outputfile.write(source.read(1 << 20))


@contextlib.contextmanager
def serving(folder: Path, handler: type[Whole]) -> Iterator[str]:
    """A web server of a folder: its URL."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(handler, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(params=[Whole, Parts])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A web server of a folder: its URL, the folder."""
    folder = tmp_path / "web"
    folder.mkdir()
    with serving(folder, request.param) as url:
        yield url, folder


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    filesystem = fsspec.filesystem("memory")
    yield filesystem
    filesystem.store.clear()
    filesystem.pseudo_dirs[:] = [""]


@pytest.mark.parametrize("name", ["jsonl", "parquet", "csv", "warc", "arrow", "json"])
def test_a_url_gives_the_documents_of_the_file(tmp_path: Path, memory: fsspec.AbstractFileSystem, name: str):
    for suffix, data in (("", SAMPLES[name][0]),):
        local, url = tmp_path / f"a.{name}{suffix}", f"memory://corpus/a.{name}{suffix}"
        local.write_bytes(data)
        memory.pipe(url, data)
        assert expand(files(url)) == [url]
        documents = list(read(url, files(url)))
        assert [(d.text, d.position, d.offset) for d in documents] == [
            (d.text, d.position, d.offset) for d in read(str(local), files(str(local)))
        ]
        assert {d.source for d in documents} == {url}
        start = Place(documents[5].position, documents[5].offset)
        assert list(read(url, files(url), start)) == documents[5:]
        assert read_identities(url, [start]) == {start.position: documents[5].identity}
        assert scan(url, files(url), 100).size == len(data)
        assert (scan(url, files(url), 100).sha256, scan(url, files(url), 100).cuts) == ("", ())
        assert not is_local(url)


@pytest.mark.parametrize("name", ["jsonl", "parquet", "warc", "csv.gz"])
def test_web_addresses(served: tuple[str, Path], name: str):
    base, folder = served
    data = SAMPLES[name.removesuffix(".gz")][0]
    (folder / f"a.{name}").write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    url = f"{base}/a.{name}?download=true&token=secret"
    assert expand(files(url)) == [url]
    documents = list(read(url, files(url)))
    assert [d.text for d in documents] == TEXTS[: len(documents)]
    assert list(read(url, files(url), Place(7, documents[7].offset))) == documents[7:]
    assert {d.source for d in documents} == {f"{base}/a.{name}?download=true&token=***"}
    with pytest.raises(DataError, match="no such file"):
        expand(files(f"{base}/b.{name}"))
    with pytest.raises(DataError, match="cannot read"):
        list(read(f"{base}/b.{name}", files("-")))


def test_large_files_of_the_web(served: tuple[str, Path]):
    base, folder = served
    (folder / "a.jsonl").write_bytes(b'{"text": "%s"}\n' % (b"x" * 1000) * 12_000)
    url = f"{base}/a.jsonl"
    documents = list(read(url, files(url)))
    assert len(documents) == 12_000
    assert list(read(url, files(url), Place(11_000, documents[11_000].offset))) == documents[11_000:]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.warc", "a.csv"])
def test_a_broken_connection_is_not_the_end_of_the_file(tmp_path: Path, name: str):
    data = b"text\n" + b'"%s"\n' % (b"x" * 1000) * 12_000
    (tmp_path / name).write_bytes(gzip.compress(data, 0) if name.endswith("gz") else data)
    with serving(tmp_path, Cut) as base, pytest.raises(DataError, match=f"cannot read {base}/{name}: "):
        list(read(f"{base}/{name}", files("-")))


def test_folders_and_globs_of_urls(memory: fsspec.AbstractFileSystem):
    for name in ("b/c.jsonl", "a.jsonl", "a.txt", "notes.md"):
        memory.pipe(f"memory://corpus/{name}", b"")
    assert expand(files("memory://corpus/")) == [
        f"memory://corpus/{name}" for name in ("a.jsonl", "a.txt", "b/c.jsonl")
    ]
    assert expand(files("memory://corpus/*.jsonl", "memory://corpus/a.jsonl")) == ["memory://corpus/a.jsonl"]
    assert expand(files("memory://corpus/**/*.jsonl")) == ["memory://corpus/a.jsonl", "memory://corpus/b/c.jsonl"]
    for wrong in ("memory://corpus/*.csv", "memory://nowhere/a.jsonl"):
        with pytest.raises(DataError, match=r"no such file|nothing matches"):
            expand(files(wrong))
    with pytest.raises(DataError, match="no reader"):
        expand(files("memory://corpus/notes.md"))


def test_a_file_url_is_a_path(tmp_path: Path):
    (tmp_path / "a b.jsonl").write_bytes(SAMPLES["jsonl"][0])
    names = expand(files(f"file://{tmp_path}/a%20b.jsonl", str(tmp_path)))
    assert names == [str(tmp_path / "a b.jsonl")]
    assert scan(names[0], files("-"), 1000).cuts


def test_what_is_missing_for_a_url_is_named():
    with pytest.raises(DataError, match=r"s3://bucket/a\.jsonl needs a package .*s3fs"):
        expand(files("s3://bucket/a.jsonl"))
    with pytest.raises(DataError, match=r"nowhere://x/a\.jsonl: .*nowhere"):
        expand(files("nowhere://x/a.jsonl"))


@pytest.mark.parametrize(
    ("url", "printed"),
    [
        ("https://me:secret@host/a.jsonl", "https://***@host/a.jsonl"),
        ("https://h/a.jsonl?X-Amz-Signature=secret&v=1", "https://h/a.jsonl?X-Amz-Signature=***&v=1"),
        ("https://h/a?sv=1&sig=secret", "https://h/a?sv=1&sig=***"),
        ("simplecache::ftp://u:secret@h/a.csv", "simplecache::ftp://***@h/a.csv"),
        ("s3://bucket/a?b@c.jsonl", "s3://bucket/a?b@c.jsonl"),
        ("/home/me@work/key=a?token=b.jsonl", "/home/me@work/key=a?token=b.jsonl"),
    ],
)
def test_credentials_are_not_printed(url: str, printed: str):
    assert shown(url) == printed


def test_no_error_holds_a_credential(served: tuple[str, Path]):
    base = served[0].replace("://", "://me:secret@")
    for url in (f"{base}/a.jsonl", f"{base}/a.jsonl?token=secret", "ftp://me:secret@127.0.0.1:1/a.jsonl"):
        for attempt in (lambda url=url: expand(files(url)), lambda url=url: list(read(url, files("-")))):
            with pytest.raises(DataError) as error:
                attempt()
            assert "secret" not in str(error.value)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Written by the real library, in a process of its own."""
    folder = tmp_path_factory.mktemp("datasets")
    code = (
        "import json, sys; from datasets import Dataset, DatasetDict\n"
        "rows = json.load(sys.stdin); d = Dataset.from_list(rows)\n"
        "d.save_to_disk('one', num_shards=3)\n"
        "DatasetDict({'train': d, 'test': d.select(range(5))}).save_to_disk('several')\n"
        "d.select(range(25)).to_json('data/train-00000-of-00002.jsonl')\n"
        "d.select(range(25, 40)).to_json('data/train-00001-of-00002.jsonl')\n"
        "d.remove_columns('n').select(range(25)).to_csv('options/train-0.csv', sep=';', lineterminator='\\n')\n"
        "d.remove_columns('n').select(range(25, 40)).to_csv('options/train-1.csv', sep=';', lineterminator='\\n')\n"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "home")}
    (folder / "data").mkdir()
    (folder / "options").mkdir()
    (folder / "options" / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files: '*.csv'\n  sep: ';'\n---\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(FEW), text=True, cwd=folder, env=environment, check=True,
        capture_output=True,
    )  # fmt: skip
    return folder


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("one", [f"one/data-0000{number}-of-00003.arrow" for number in range(3)]),
        ("several", ["several/train/data-00000-of-00001.arrow"]),
        ("data", [f"data/train-0000{number}-of-00002.jsonl" for number in range(2)]),
        ("options", [f"dataset://options?split=train&shard=0000{number}" for number in range(2)]),
    ],
)
def test_datasets(saved: Path, monkeypatch: pytest.MonkeyPatch, name: str, files: list[str]):
    monkeypatch.chdir(saved)
    source = dataset(name, language="en")
    assert expand(source) == files
    documents = [document for one in files for document in read(one, source)]
    assert [(d.text, d.id, d.language) for d in documents] == [(row["text"], row["id"], "en") for row in FEW]
    last = list(read(files[-1], source))
    assert list(read(files[-1], source, Place(3, last[3].offset))) == last[3:] == documents[-len(last) :][3:]
    assert read_identities(files[0], [(4, documents[4].offset)]) == {4: "id-4"}
    assert (scan(files[0], source, 100).sha256 == "") is (name == "options")


def test_a_split_is_chosen(saved: Path):
    source = dataset(saved / "several", split="test")
    assert len([d for one in expand(source) for d in read(one, source)]) == 5
    with pytest.raises(DataError, match="no split 'no'; it has train, test"):
        expand(dataset(saved / "several", split="no"))
    with pytest.raises(DataError, match=r"cannot open the dataset .*: Bad split"):
        expand(dataset(saved / "data", split="no"))


def test_a_broken_record_ends_a_shard_only_where_the_library_reads_it(saved: Path, tmp_path: Path):
    lines = SAMPLES["jsonl"][0].splitlines(keepends=True)
    (tmp_path / "train.jsonl").write_bytes(b"".join([*lines[:3], b"{broken\n", *lines[3:]]))
    source = dataset(tmp_path)
    (name,) = expand(source)
    assert [item.position for item in read(name, source) if isinstance(item, Broken)] == [3]
    options = "---\nconfigs:\n- config_name: default\n  data_files: '*.jsonl'\n  chunksize: 100000\n---\n"
    (tmp_path / "README.md").write_text(options)
    (name,) = expand(source)
    *_, last = read(name, source)
    assert name.startswith("dataset://")
    assert isinstance(last, Broken) and "cannot be read any further" in last.reason


@pytest.mark.parametrize(
    ("name", "message"),
    [("./nothing", "no such folder"), ("a/b/c", "no such folder"), ("somebody/something", "Hub"), ("something", "Hub")],
)
def test_datasets_that_are_not_there(name: str, message: str):
    """In a process without network, as the test suite's own."""
    code = (
        "import sys; from data_pipeline.read import expand; from data_pipeline.read.settings import DatasetSource\n"
        "expand(DatasetSource(kind='dataset', dataset=sys.argv[1]))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    child = subprocess.run([sys.executable, "-c", code, name], capture_output=True, text=True, env=environment)
    assert message in child.stderr.splitlines()[-1] and "DataError" in child.stderr.splitlines()[-1]


def test_nothing_here_imports_torch(saved: Path):
    code = (
        "import sys; from data_pipeline.read import expand, read\n"
        "from data_pipeline.read.settings import DatasetSource\n"
        "source = DatasetSource(kind='dataset', dataset=sys.argv[1])\n"
        "print(sum(1 for name in expand(source) for _ in read(name, source)), 'torch' in sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code, str(saved / "options")], capture_output=True, text=True)
    assert shown.stdout.split()[-1] == "False", shown.stderr


class Hub(Whole):
    """As much of Hugging Face's Hub as a client needs to find and read one dataset of one file."""

    asked: ClassVar[list[str]] = []
    lines = SAMPLES["jsonl"][0]

    def do_HEAD(self) -> None:
        """The same without the content."""
        self.do_GET()

    def do_GET(self) -> None:
        path, sha = self.path.partition("?")[0], "a" * 40
        self.asked.append(path)
        file = {"type": "file", "oid": "b" * 40, "size": len(self.lines), "path": "data/train.jsonl"}
        info = {"id": "someone/poems", "sha": sha, "siblings": [{"rfilename": file["path"]}], "tags": []}
        answers: dict[str, Any] = {
            "/api/datasets/someone/poems": info,
            f"/api/datasets/someone/poems/revision/{sha}": info,
            f"/api/datasets/someone/poems/tree/{sha}": [{"type": "directory", "oid": sha, "size": 0, "path": "data"}],
            f"/api/datasets/someone/poems/tree/{sha}/data": [file],
            f"/datasets/someone/poems/resolve/{sha}/data/train.jsonl": self.lines,
        }
        answer = answers.get(path, {"error": "not found"})
        body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        self.send_response(200 if path in answers else 404)
        self.send_header("X-Error-Code", "EntryNotFound" if "/resolve/" in path else "RepoNotFound")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


def test_a_dataset_of_the_hub_is_pinned_and_streamed(tmp_path: Path):
    """The real client, before a server that speaks like the Hub: the test suite has no network."""
    code = (
        "import sys; from data_pipeline.read import expand, read\n"
        "from data_pipeline.read.settings import DatasetSource\n"
        "source = DatasetSource(kind='dataset', dataset=sys.argv[1])\n"
        "print([(name, [d.text for d in read(name, source)]) for name in expand(source)])"
    )
    with serving(tmp_path, Hub) as url:
        environment = {**os.environ, "HF_ENDPOINT": url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
        command = [sys.executable, "-c", code]
        run = functools.partial(subprocess.run, capture_output=True, text=True, env=environment, timeout=100)
        found, missing = run([*command, "someone/poems"]), run([*command, "someone/else"])
    assert found.returncode == 0, found.stderr
    texts = [row["text"] for row in FEW]
    assert ast.literal_eval(found.stdout) == [(f"hf://datasets/someone/poems@{'a' * 40}/data/train.jsonl", texts)]
    assert "DataError: the Hub gives no dataset someone/else" in missing.stderr.splitlines()[-1]
    assert all("someone" in path for path in Hub.asked)  # and nothing else was told to anybody
