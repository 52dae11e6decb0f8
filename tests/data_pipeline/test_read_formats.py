"""Each format gives the same documents, plain and compressed, from any start."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from pydantic import ValidationError

from data_pipeline.errors import DataError
from data_pipeline.read import Broken, Document, Place, expand, read, read_identities
from data_pipeline.read.document import BEGINNING
from data_pipeline.read.settings import FilesSource
from tests.data_pipeline.read_samples import PAGE, ROWS, TEXTS, arrow, crawl, jsonl, parquet, table, warc

COMPRESSIONS = {
    "": lambda data: data,
    ".gz": lambda data: gzip.compress(data[: len(data) // 2]) + gzip.compress(data[len(data) // 2 :]),
    ".zst": lambda data: zstandard.compress(data[: len(data) // 2]) + zstandard.compress(data[len(data) // 2 :]),
}


def source(**settings) -> FilesSource:
    return FilesSource(kind="files", files=["-"], **settings)


FORMATS = {
    "jsonl": jsonl,
    "json": lambda rows: json.dumps(rows, indent=1, ensure_ascii=False).encode(),
    "csv": table,
    "tsv": lambda rows: table(rows, "\t"),
    "parquet": parquet,
    "arrow": arrow,
    "warc": warc,
}


def items(path: Path | str, start: Place = BEGINNING, end: int | None = None, **settings) -> list[Document | Broken]:
    return list(read(str(path), source(**settings), start, end))


@pytest.fixture(params=[(name, suffix) for name in FORMATS for suffix in COMPRESSIONS], ids="".join)
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    name, suffix = request.param
    path = tmp_path / f"a.{name}{suffix}"
    path.write_bytes(COMPRESSIONS[suffix](FORMATS[name](ROWS)))
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
    data = COMPRESSIONS[suffix](FORMATS[name](ROWS))
    path.write_bytes(data[: len(data) * 3 // 4])
    *documents, last = items(path)
    assert isinstance(last, Broken) and "cut short" in last.reason
    assert last.position == len(documents)
    if name not in ("parquet", "arrow"):
        assert 0 < len(documents) < len(ROWS)
        assert [d.text for d in documents] == TEXTS[: len(documents)]
        middle = documents[len(documents) // 2]
        assert items(path, Place(middle.position, middle.offset)) == [*documents[middle.position :], last]


def test_the_format_may_be_named(tmp_path: Path):
    for name, suffix in (("csv", ""), ("warc", ".gz"), ("jsonl", ".zst")):
        path = tmp_path / f"part-{name}{suffix}"
        path.write_bytes(COMPRESSIONS[suffix](FORMATS[name](ROWS)))
        with pytest.raises(DataError, match="name its `format`"):
            expand([path])
        assert expand(FilesSource(kind="files", files=[str(path)], format=name)) == [str(path)]
        assert [d.text for d in items(path, format=name)] == TEXTS


def test_json_comes_in_several_shapes(tmp_path: Path):
    path = tmp_path / "a.json"
    shapes = [
        json.dumps(ROWS),
        "\ufeff" + json.dumps({"version": 1, "data": ROWS, "tags": {"a": []}}, indent=2),
        jsonl(ROWS).decode(),
        "".join(json.dumps(row, indent=4) for row in ROWS),
    ]
    for shape in shapes:
        path.write_text(shape, encoding="utf-8")
        documents = items(path)
        assert [(d.text, d.id) for d in documents] == [(row["text"], row["id"]) for row in ROWS]
        assert items(path, Place(7, documents[7].offset)) == documents[7:]
    path.write_text(json.dumps(ROWS[3]))
    assert [d.text for d in items(path)] == [TEXTS[3]]
    for empty in ("", " \n", "[]", "[ ]\n"):
        path.write_text(empty)
        assert items(path) == []


def test_empty_files_hold_nothing(tmp_path: Path):
    for name in ("jsonl", "json", "csv", "tsv", "warc"):
        for suffix, compress in COMPRESSIONS.items():
            path = tmp_path / f"empty.{name}{suffix}"
            path.write_bytes(compress(b""))
            assert items(path) == []


def test_arrow_files_with_a_footer(tmp_path: Path):
    path = tmp_path / "a.arrow"
    path.write_bytes(arrow(ROWS, of_file=True))
    documents = items(path)
    assert [d.text for d in documents] == TEXTS
    assert items(path, Place(200)) == documents[200:]


def test_pages_of_a_crawl(tmp_path: Path):
    path = tmp_path / "a.warc"
    path.write_bytes(crawl())
    documents = items(path)
    assert [(d.position, d.id) for d in documents] == [(n, f"id-{n}") for n in (1, 2, 3, 4, 6, 7, 9, 10, 11)]
    assert {d.text for d in documents} == {PAGE}
    assert items(path, Place(documents[3].position, documents[3].offset)) == documents[3:]


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ("<p>é 古詩".encode(), "<p>é 古詩"),
        (b"\xef\xbb\xbf<p>\xc3\xa9", "<p>é"),
        ("<p>古詩".encode("utf-16"), "<p>古詩"),
        ('<meta charset="gbk"><p>古詩'.encode("gbk"), '<meta charset="gbk"><p>古詩'),
        ('<meta charset="big5"><p>古詩'.encode("big5"), '<meta charset="big5"><p>古詩'),
        ('<?xml encoding="shift_jis"?>日本'.encode("shift_jis"), '<?xml encoding="shift_jis"?>日本'),
        ('<meta content="text/html; charset=iso-8859-1">é'.encode(), '<meta content="text/html; charset=iso-8859-1">é'),
        ('<meta charset="iso-8859-1">\u2019é'.encode("cp1252"), '<meta charset="iso-8859-1">\u2019é'),
        ('<meta charset="utf-8">古詩'.encode() * 9 + b"\xff", '<meta charset="utf-8">古詩' * 9 + "\ufffd"),
        ('<meta charset="utf-8">слово слово слово'.encode("cp1251"), '<meta charset="utf-8">слово слово слово'),
        (b'<meta charset="utf-7">+AGE-', '<meta charset="utf-7">+AGE-'),
    ],
)
def test_a_page_is_decoded_by_what_it_says_and_is(tmp_path: Path, data: bytes, text: str):
    path = tmp_path / "a.html"
    path.write_bytes(data)
    assert [(d.text, d.id) for d in items(path)] == [(text, None)]


def test_other_encodings_are_named(tmp_path: Path):
    for name, encoding in (("a.txt", "gb18030"), ("a.csv", "utf-16"), ("a.html", "koi8-r"), ("b.txt", "cp1252")):
        path, word = tmp_path / name, {"koi8-r": "слово", "cp1252": "été"}.get(encoding, "古詩")
        path.write_bytes((f"id,text\n1,{word}\n" if name.endswith("csv") else word).encode(encoding))
        assert [d.text for d in items(path, encoding=encoding)] == [word]
    for wrong in ("utf-99", "rot13", "utf-7"):
        with pytest.raises(ValidationError, match="no encoding"):
            source(encoding=wrong)


def test_a_parquet_file_of_one_large_row_group_is_read_in_little_memory(tmp_path: Path):
    path = tmp_path / "large.parquet"
    texts = [f"{number} " * 4000 for number in range(100_000, 102_000)]
    pq.write_table(pa.table({"text": texts}), path, compression="zstd", write_batch_size=16)  # pages are read whole
    before, held = pa.total_allocated_bytes(), []
    for number, document in enumerate(read(str(path), FilesSource(kind="files", files=["-"]))):
        assert document.text == texts[number]
        held.append(pa.total_allocated_bytes() - before)
    assert len(held) == len(texts) and max(held) < 16 * 2**20
