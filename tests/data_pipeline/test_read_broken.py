"""What cannot be read is told with its place, and the reading goes on; memory and time stay bounded."""

import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_pipeline.errors import DataError
from data_pipeline.read import Broken, Document, Place, read, read_documents, scan
from data_pipeline.read.settings import FilesSource
from tests.data_pipeline.read_samples import ROWS, arrow, parquet, warc, warc_record

SOURCE = FilesSource(kind="files", files=["-"])


def outcome(path: Path) -> list[str]:
    """The texts, and in their places the reasons of what is broken."""
    return [
        i.text if isinstance(i, Document) else f"!{i.position}@{i.offset} {i.reason}" for i in read(str(path), SOURCE)
    ]


def good(text: str) -> bytes:
    return json.dumps({"text": text}).encode()


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"text": ', "not valid JSON"),
        (b'{"text": "\xff"}', "not valid JSON"),
        (b'{"text": "\\ud800"}', "not valid JSON"),
        (b'{"text": null}', "holds NoneType, not text"),
        (b'["text"]', "expected an object"),
        (b'{"body": "x", "title": "y"}', "no field 'text' (fields here: body, title)"),
        (b"\0\0\0", "not valid JSON"),
        (b'{"text": "a"} {"text": "b"}', "not valid JSON"),
        (b"[" * 5000, "not valid JSON"),
    ],
)
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_bad_line_is_passed_over(tmp_path: Path, bad: bytes, reason: str, suffix: str):
    path = tmp_path / f"a.jsonl{suffix}"
    data = b"\n".join([good("first"), bad, b" \t", good("last"), b""])
    path.write_bytes(gzip.compress(data) if suffix else data)
    first, broken, last = read(str(path), SOURCE)
    assert (first.text, last.text, last.position) == ("first", "last", 2)
    assert isinstance(broken, Broken) and reason in broken.reason
    assert (broken.position, broken.offset, broken.excerpt) == (1, len(good("first")) + 1, bad[:200])
    with pytest.raises(DataError, match=rf"a\.jsonl{suffix}:2: "):
        list(read_documents([path]))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ('[{"text": "a"}, {"text": 1}, {"body": ""}, 7, {"text": "b"}]', ["a", "!1", "!2", "!3", "b"]),
        ('[{"text": "a"}, {"text" "x"}, {"text": "b"}]', ["a", "!1@16 not valid JSON", "b"]),
        ('[{"text": "a"}, {"text": "b"', ["a", "!1@16 the file ends inside a value"]),
        ('[{"text": "a"}', ["a", "!1@14 expected , or ]"]),
        ('[{"text": "a"},', ["a", "!1@15 the file ends inside an array"]),
        ('[{"text": "a"} {"text": "b"}]', ["a", "!1@15 expected , or ]"]),
        ('[{"text": "a"}] x', ["a", "!1@16 something follows"]),
        ('{"text": "a"} ]', ["a", "!1@14 no value begins with ']'"]),
        ("[" * 2000, ["!0@1 more than 1000 arrays"]),
        ("1" * 70_000 + " true", ["!0", "!1@70001 expected an object"]),
        ('{"a": [{"text": "x"}], "b": []}', ["!0@0 there is no field 'text' (fields here: a, b)"]),
    ],
)
def test_bad_json(tmp_path: Path, content: str, expected: list[str]):
    path = tmp_path / "a.json"
    path.write_text(content)
    found = outcome(path)
    assert len(found) == len(expected)
    assert all(one.startswith(start) for one, start in zip(found, expected, strict=True)), found


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"id,text\n1,a\n2\n3,b,c\n4,d\n", ["a", "!1@0 line 3: 1 fields, where the first row has 2", "!2", "d"]),
        (b'id,text\n1,"a\nb"\n2,"c" d\n3,e\n', ["a\nb", "!1@0 line 4: not a row of a table", "e"]),
        (b'id,text\n1,"never closed\n2,a\n3,b\n', ["!0@0 line 2: not a row", "a", "b"]),
        (b'id,text\n1,"not closed\n2,"a"\n3,"b"\n', ["!0@0 line 2: not a row", "a", "b"]),
        (
            b"id,text\n1,a\n\n \n2,\xff\n3,\xe5\x8f\xa4\n",
            ["a", "!1@0 line 5: not UTF-8; say the file's `encoding`", "古"],
        ),
        (b"id,body\n1,a\n", ["!0@0 the row of names: there is no field 'text' (fields here: id, body)"]),
        (b'"id,text\n1,a\n', ["!0@0 the row of names: not a row"]),
        (b"text\n", []),
        (b"\xef\xbb\xbftext\ra\r\rb", ["a", "b"]),
        (b"text,text\na,b\n", ["a"]),
        (b"text\n" + b"x" * 500_000 + b"\n", ["x" * 500_000]),
    ],
)
def test_bad_tables(tmp_path: Path, content: bytes, expected: list[str]):
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    found = outcome(path)
    assert len(found) == len(expected)
    assert all(one.startswith(start) for one, start in zip(found, expected, strict=True)), found


def test_bad_warc_records(tmp_path: Path):
    pages = [warc_record(number, f"page {number}".encode()) for number in range(9)]
    pages[1] = pages[1].replace(b"WARC/1.0", b"WORC/1.0")
    pages[3] = pages[3].replace(b"\r\nContent-Length: ", b"\r\nContent-Length: 9")
    pages[5] = pages[5].replace(b"\r\nContent-Length: ", b"\r\nContent-Length: -")
    pages[6] = pages[6].replace(b"\r\nContent-Length: ", b"\r\nContent-Length: 99999999999")
    zipped = gzip.compress(b"page 7")[:-6]
    pages[7] = warc_record(7, zipped, head="Content-Encoding: gzip\r\n")
    path = tmp_path / "a.warc"
    path.write_bytes(b"".join(pages))
    found = [line.partition("@")[0] for line in outcome(path)]
    assert found == ["page 0", "!1", "page 2", "!3", "page 4", "!5", "!6", "!7", "page 8"][:6] + found[6:]
    assert found[-1] in ("!6", "page 8")
    path.write_bytes(b"".join(pages[:6] + pages[7:]))
    assert [line.partition("@")[0] for line in outcome(path)] == [*found[:6], "!6", "page 8"]
    path.write_bytes(b"".join(pages)[:-200])
    assert "!" in outcome(path)[-1]
    path.write_bytes(warc(ROWS[:3])[:-30])
    *_, last = outcome(path)
    assert last.startswith("!2") and "shorter or longer" in last


@pytest.mark.parametrize("write", [parquet, arrow])
def test_rows_before_the_damage_are_delivered(tmp_path: Path, write: Callable[..., bytes]):
    path = tmp_path / f"a.{write.__name__}"
    options = {"compression": "zstd", "write_page_checksum": True} if write is parquet else {}
    data = bytearray(write(ROWS, **options))
    middle = len(data) * 5 // 8
    data[middle : middle + 64] = b"\xff" * 64
    path.write_bytes(data)
    *documents, last = read(str(path), SOURCE)
    assert [d.text for d in documents] == [row["text"] for row in ROWS[: len(documents)]]
    assert len(ROWS) // 4 <= len(documents) < len(ROWS)
    assert isinstance(last, Broken) and last.position == len(documents) and "fetch it again" in last.reason


@pytest.mark.parametrize(
    "line", ["Content-Length: {}\r\n", "content-length\t: {}\r\n", "x\r\n Content-Length : {}\r\n"]
)
def test_a_second_length_of_a_warc_record_is_not_believed(tmp_path: Path, line: str):
    """FastWARC makes room for as many bytes as the last one says: the process ended."""
    record = warc_record(0, b"page").replace(b"\r\n\r\n", ("\r\n" + line.format(2**64 - 1) + "\r\n").encode(), 1)
    path = tmp_path / "a.warc"
    path.write_bytes(record + warc_record(1, b"next"))
    assert [item.text for item in read(str(path), SOURCE)] == ["page", "next"]


def test_an_id_without_end_is_a_broken_record(tmp_path: Path):
    """orjson reads 1,024 levels; Python's str() of them does not come back."""
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "id": ' + "[" * 1020 + "]" * 1020 + '}\n{"text": "b", "id": [1]}\n')
    first, second = read(str(path), SOURCE)
    assert isinstance(first, Broken) and first.reason == "the field 'id' is nested too deep"
    assert isinstance(second, Document) and second.id == "[1]"


@pytest.mark.parametrize("rows", [-1, 0])
def test_row_groups_that_do_not_add_up_are_told_and_the_same_from_any_start(tmp_path: Path, rows: int):
    """Which group a row is in was another question from another start."""
    table = pa.table({"text": [f"text {number}" for number in range(35)]})
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=5)
    data = bytearray(path.read_bytes())
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    places = [at for at in range(footer, len(data)) if data[at : at + 3] == b"\x16\x0a\x26"]  # num_rows, file_offset
    assert len(places) == 7
    data[places[2] + 1] = 2 * abs(rows) - (rows < 0)  # as Thrift writes numbers
    path.write_bytes(data)
    items = list(read(str(path), SOURCE))
    assert isinstance(items[-1], Broken) and "row" in items[-1].reason
    assert len(items) == (31 if rows == 0 else 1)
    for number, item in enumerate(items):
        assert list(read(str(path), SOURCE, Place(item.position, item.offset))) == items[number:]


def test_bad_rows_of_parquet(tmp_path: Path):
    path = tmp_path / "a.parquet"
    text = pa.array([b"fine", b"\xff", None, b"too"]).view(pa.string())
    pq.write_table(pa.table({"text": text}), path)
    fine, bad, missing, too = outcome(path)
    assert (fine, too) == ("fine", "too")
    assert bad.startswith("!1") and "utf-8" in bad and missing.startswith("!2@0 field 'text' holds NoneType")
    pq.write_table(pa.table({"text": [1]}), path)
    assert outcome(path) == ["!0@0 field 'text' holds int, not text"]


def test_a_window_that_needs_too_much_memory_is_no_damage(tmp_path: Path):
    """A frame's head that asks for 1 GiB, and a block of 3 bytes as they are."""
    (tmp_path / "a.jsonl.zst").write_bytes(b"\x28\xb5\x2f\xfd\x00\xa0" + b"\x19\x00\x00{}\n")
    (told,) = outcome(tmp_path / "a.jsonl.zst")
    assert "`zstd --long`" in told and "cut short" not in told


@pytest.mark.parametrize("name", ["a.txt", "a.html", "a.jsonl", "a.csv", "a.warc", "a.json", "a.parquet"])
def test_what_cannot_be_opened_is_a_sentence(tmp_path: Path, name: str):
    path = tmp_path / name
    for suffix in ("", ".gz", ".zst"):
        with pytest.raises(DataError, match=r"cannot read .*: No such file or directory\.$"):
            list(read(f"{path}{suffix}", SOURCE))
    with pytest.raises(DataError, match="No such file"):
        scan(str(path), SOURCE, 100)
    path.mkdir()
    with pytest.raises(DataError, match=r"cannot read .*: Is a directory\.$"):
        list(read(str(path), SOURCE))


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.csv.gz", "a.json", "a.warc.zst", "a.txt"])
def test_an_error_of_the_disk_is_not_taken_for_damage(tmp_path: Path, name: str):
    (tmp_path / name).symlink_to("/proc/self/mem")  # nothing is at 0: the kernel answers with an I/O error
    with pytest.raises(DataError, match=r"cannot read .*: Input/output error\.$"):
        list(read(str(tmp_path / name), SOURCE))


MIB = 1 << 20
BOMBS: dict[str, tuple[int, Callable[[], bytes]]] = {
    "line.jsonl": (220, lambda: good("a") + b"\n" + bytes(140 * MIB) + b"\n" + good("b")),
    "values.jsonl": (250, lambda: good("a") + b"\n[" + b"[]," * (9 * MIB) + b"[]]\n" + good("b")),
    "row.csv": (300, lambda: b'text\na\n"' + (b"x" * 1000 + b"\n") * 40_000 + b'"\nb\n'),
    "page.html.zst": (300, lambda: zstandard.compress(bytes(1000 * MIB))),
    "page.warc": (500, lambda: warc_record(0, gzip.compress(bytes(300 * MIB), 1), head="Content-Encoding: gzip\r\n")),
    "text.parquet": (700, lambda: repeated("x" * (10 * MIB), 300)),
}
"""By name of the file: MiB of memory that may be needed, and what makes the file."""
MORE_BOMBS: dict[str, tuple[int, Callable[[], bytes]]] = {
    "line.jsonl.gz": (220, lambda: gzip.compress(good("a") + b"\n" + b"x" * (200 * MIB) + b"\n" + good("b"), 1)),
    "line.jsonl.zst": (220, lambda: zstandard.compress(good("a") + b"\n" + bytes(1000 * MIB))),
    "text.jsonl": (700, lambda: good("é" * (10 * MIB) + "\U0001f600") + b"\n" + good("a" * (127 * MIB))),
    "value.json": (1000, lambda: b'[{"text": "a"}, {"text": "' + b"x" * (200 * MIB) + b'"}]'),
    "values.json": (250, lambda: b'{"data": [' + b"{}," * (20 * MIB) + b"{}]}"),
    "digits.json": (50, lambda: b"1" * (200 * MIB)),
    "line.csv": (220, lambda: b"text\na\n" + b"x" * (200 * MIB) + b"\nb\n"),
    "lines.csv": (300, lambda: b'text\na\n"' + b"\n" * (40 * MIB) + b'"\nb\n'),
    "book.txt.gz": (220, lambda: gzip.compress(bytes(300 * MIB), 1)),
    "record.warc": (500, lambda: warc_record(0, b"a") + warc_record(1, bytes(150 * MIB)) + warc_record(2, b"b")),
    "head.warc": (50, lambda: b"WARC/1.0\r\n" + b"X: y\r\n" * (20 * MIB)),
    "zeros.parquet": (1000, lambda: repeated("\0" * (100 * MIB), 20)),
}
CHILD = """
import sys
from data_pipeline.read import Broken, read
from data_pipeline.read.settings import FilesSource
def memory():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
before = memory()
for item in read(sys.argv[1], FilesSource(kind="files", files=["-"])):
    if isinstance(item, Broken):
        print(item.position, item.reason, file=sys.stderr)
print(memory() - before)
"""


def repeated(text: str, count: int) -> bytes:
    """A large text in many rows of a small file."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.table({"text": pa.DictionaryArray.from_arrays([0] * count, [text])}),
        sink,
        compression="zstd",
        store_schema=False,
    )
    return sink.getvalue().to_pybytes()


@pytest.mark.parametrize("name", [*BOMBS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE_BOMBS)])
def test_memory_stays_below_a_gibibyte(tmp_path: Path, name: str):
    """Small files that unpack to much, records without end. The slow ones are further shapes of the same."""
    path = tmp_path / name
    most, make = {**BOMBS, **MORE_BOMBS}[name]
    path.write_bytes(make())
    child = subprocess.run([sys.executable, "-c", CHILD, str(path)], capture_output=True, text=True, timeout=100)
    assert child.returncode == 0, child.stderr
    assert int(child.stdout) >> 10 < most
    assert child.stderr or name.startswith(("text", "zeros"))  # all others are broken
