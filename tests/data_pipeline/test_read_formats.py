"""Each format: the same documents plain and compressed and from any start; what is broken in it; its bounds."""

import csv
import gzip
import io
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_pipeline.read import Broken, Document, Place, expand, read, read_identities, scan
from data_pipeline.read import input as bounds
from data_pipeline.read.settings import FilesSource

RANDOM = random.Random(4)
TEXTS = [
    "plain",
    'with "quotes", commas,\tand tabs',
    "two\nlines\r\nand three\n",
    "中文，古詩\n床前明月光",
    "a\u2028b\u0085c \U0001f600",
    "<p>not markup</p>",
    *("".join(RANDOM.choices('abc ,"\n\t中é\\', k=RANDOM.randrange(2000))) + "." for _ in range(300)),
]
ROWS = [{"id": f"id-{number}", "text": text, "n": [number]} for number, text in enumerate(TEXTS)]
COMPRESSIONS = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :]),
    ".zst": lambda data: zstandard.compress(data[: len(data) // 2]) + zstandard.compress(data[len(data) // 2 :]),
}


def source(**settings) -> FilesSource:
    return FilesSource(kind="files", files=["-"], **settings)


def table(delimiter: str) -> bytes:
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(["n", "text", "id"])
    writer.writerows([row["n"][0], row["text"], row["id"]] for row in ROWS)
    return file.getvalue().encode()


def columns(**options) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), file, row_group_size=70, **options)
    return file.getvalue()


def arrow() -> bytes:
    file, rows = io.BytesIO(), pa.Table.from_pylist(ROWS)
    with pa.ipc.new_stream(file, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=70)
    return file.getvalue()


def warc_record(number: int, body: bytes, kind: str = "response", head: str = "", content_type: str = "") -> bytes:
    """A record of a WARC file; of a response `head` are further HTTP headers."""
    if kind == "response":
        http = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type or 'text/html; charset=utf-8'}\r\n{head}\r\n".encode()
        body, content_type = http + body, "application/http; msgtype=response"
    return (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: id-{number}\r\nWARC-Target-URI: http://a/{number}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + (body + b"\r\n\r\n")


def warc() -> bytes:
    return b"".join(warc_record(number, text.encode()) for number, text in enumerate(TEXTS))


FORMATS = {
    "jsonl": lambda: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode(),
    "json": lambda: json.dumps(ROWS, indent=1, ensure_ascii=False).encode(),
    "csv": lambda: table(","),
    "tsv": lambda: table("\t"),
    "parquet": columns,
    "arrow": arrow,
    "warc": warc,
}


def items(path: Path | str, start: Place = Place(), end: int | None = None, **settings) -> list[Document | Broken]:
    return list(read(str(path), source(**settings), start, end))


@pytest.fixture(params=[(name, suffix) for name in FORMATS for suffix in COMPRESSIONS], ids="".join)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name, suffix = request.param
    path = tmp_path / f"a.{name}{suffix}"
    path.write_bytes(COMPRESSIONS[suffix](FORMATS[name]()))
    return path


def test_every_format_gives_the_same_documents(file: Path):
    documents = items(file, language="en")
    assert [(d.text, d.id, d.position, d.language) for d in documents] == [
        (row["text"], row["id"], number, "en") for number, row in enumerate(ROWS)
    ]
    assert {d.source for d in documents} == {str(file)}


def test_reading_begins_anywhere(file: Path):
    documents = items(file)
    for document in [documents[0], documents[69], documents[70], documents[200], documents[-1]]:
        assert items(file, Place(document.position, document.offset)) == documents[document.position :]


def test_identities_are_found_again(file: Path):
    documents = [items(file)[number] for number in (3, 299, 71, 70)]
    places = [(d.position, d.offset) for d in documents]
    assert read_identities(str(file), places) == {d.position: d.id for d in documents}


def test_progress_adds_up(file: Path):
    seen: list[int] = []
    list(read(str(file), source(), advance=seen.append))
    assert file.stat().st_size - 300 <= sum(seen) <= file.stat().st_size


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
@pytest.mark.parametrize("name", FORMATS)
def test_a_compressed_file_cut_short_is_noticed_wherever_reading_begins(tmp_path: Path, name: str, suffix: str):
    path = tmp_path / f"a.{name}{suffix}"
    data = COMPRESSIONS[suffix](FORMATS[name]())
    path.write_bytes(data[: len(data) * 3 // 4])
    *documents, last = items(path)
    assert isinstance(last, Broken) and "cut short" in last.reason
    assert last.position == len(documents)
    if name not in ("parquet", "arrow"):
        assert 0 < len(documents) < len(ROWS)
        assert [d.text for d in documents] == TEXTS[: len(documents)]
        middle = documents[len(documents) // 2]
        assert items(path, Place(middle.position, middle.offset)) == [*documents[middle.position :], last]
