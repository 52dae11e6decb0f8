"""Every format gives the same documents; every mistake gives a sentence with a place."""

import gzip
import os
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from data_pipeline.errors import DataError
from data_pipeline.read import expand, read_documents, read_identities
from tests.data_pipeline.conftest import sample_rows, write_jsonl

ROWS = sample_rows("zh.jsonl", 3000)


def as_tuples(paths, **options):
    return [(d.text, d.position, d.id) for d in read_documents(paths, **options)]


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    return write_jsonl(tmp_path / "a.jsonl", ROWS)


def write_as(plain: Path, suffix: str) -> Path:
    path = plain.parent / f"b{suffix}"
    if suffix == ".jsonl.gz":
        path.write_bytes(gzip.compress(plain.read_bytes()))
    elif suffix == ".jsonl.zst":
        half = plain.stat().st_size // 2
        frames = [plain.read_bytes()[:half], plain.read_bytes()[half:]]
        path.write_bytes(b"".join(zstandard.compress(frame) for frame in frames))
    else:
        pq.write_table(pa.Table.from_pylist(ROWS), path, row_group_size=40)
    return path


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_every_format_gives_the_same_documents(plain: Path, suffix: str):
    path = write_as(plain, suffix)
    assert as_tuples([path]) == as_tuples([plain])
    assert len(as_tuples([plain])) == len(ROWS)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
@pytest.mark.parametrize("id_field", ["id", "no id"])
def test_identities_are_found_again_by_their_places(plain: Path, suffix: str, id_field: str):
    path = plain if suffix == ".jsonl" else write_as(plain, suffix)
    documents = list(read_documents([path], id_field=id_field))
    some = [documents[number] for number in (len(ROWS) - 1, 0, 43, 44, 7)]
    places = [(d.position, d.offset) for d in some]
    found = read_identities(str(path), places, id_field=id_field)
    assert found == {d.position: d.identity for d in some}
    assert read_identities(str(path), [*places, (10**6, 10**9)], id_field=id_field) == found
    path.write_bytes(b"other")
    assert read_identities(str(path), places) == {}
    path.unlink()
    assert read_identities(str(path), places) == {}


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
def test_progress_adds_up_to_the_size_of_the_file(plain: Path, suffix: str):
    path = plain if suffix == ".jsonl" else write_as(plain, suffix)
    seen: list[int] = []
    list(read_documents([path], advance=seen.append))
    assert path.stat().st_size - 2048 <= sum(seen) <= path.stat().st_size


def test_text_files_are_one_document_each(tmp_path: Path):
    (tmp_path / "a.txt").write_bytes("\ufeffOne\n\nstill one".encode())
    (document,) = read_documents(expand([tmp_path]))
    assert (document.text, document.id, document.position) == ("One\n\nstill one", "a.txt", 0)


def test_blank_lines_are_no_records(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n\n{"text": "b"}')
    assert [(d.text, d.position, d.identity) for d in read_documents([path])] == [
        ("a", 0, f"{path}:0"),
        ("b", 1, f"{path}:1"),
    ]


def test_expand_takes_files_globs_and_folders(tmp_path: Path):
    (tmp_path / "deep").mkdir()
    files = [tmp_path / "a.jsonl", tmp_path / "b.txt", tmp_path / "deep" / "c.jsonl.gz"]
    for file in [*files, tmp_path / "ignored.md"]:
        file.write_text("")
    names = [str(file) for file in files]
    assert expand([tmp_path]) == names
    assert expand([tmp_path / "a.jsonl", tmp_path / "*.jsonl"]) == names[:1]
    assert expand([str(tmp_path / "**" / "*.jsonl*")]) == [names[0], names[2]]


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.jsonl", b'{"text": "fine"}\n{"text": \n', ["a.jsonl:2", "JSON"]),
        ("a.jsonl", b'{"body": "x", "title": "y"}\n', ["a.jsonl:1", "'text'", "body, title", "text_field"]),
        ("a.jsonl", b'{"text": null}\n', ["a.jsonl:1", "NoneType"]),
        ("a.jsonl", b'["text"]\n', ["a.jsonl:1", "list"]),
        ("a.jsonl", b'{"text": "\xff"}\n', ["a.jsonl:1"]),
        ("a.jsonl", b'{"text": "\\ud800"}\n', ["a.jsonl:1"]),
        ("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 9999)[:-9], ["a.jsonl.gz", "cut short"]),
        ("a.jsonl.zst", b"not zstandard", ["a.jsonl.zst", "damaged"]),
        ("a.parquet", b"not parquet", ["a.parquet", "parquet"]),
        ("a.txt", b"fine\nno\xff", ["a.txt: line 2", "UTF-8"]),
    ],
)
def test_a_bad_record_is_named_with_its_place(tmp_path: Path, name: str, content: bytes, parts: list[str]):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        list(read_documents([path]))
    for part in parts:
        assert part in str(error.value)


def test_a_zstandard_file_cut_short_is_noticed(tmp_path: Path):
    path = tmp_path / "a.jsonl.zst"
    path.write_bytes(zstandard.compress(b"".join(b'{"text": "%d"}\n' % n for n in range(99_999)))[:-1000])
    with pytest.raises(DataError, match=r"cut short.*Truncated"):
        list(read_documents([path]))


def test_a_byte_order_mark_is_passed_over(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    for start in ("", "\n"):
        path.write_text(f'\ufeff{start}{{"text": "a", "id": "x"}}\n{{"text": "b", "id": "y"}}\n', encoding="utf-8")
        documents = list(read_documents([path]))
        assert [d.text for d in documents] == ["a", "b"]
        assert read_identities(str(path), [(d.position, d.offset) for d in documents]) == {0: "x", 1: "y"}


def test_parquet_reads_no_other_columns_and_names_the_row_it_cannot_read(tmp_path: Path):
    path = tmp_path / "a.parquet"
    far = pa.array([0, 0, 2**60], pa.timestamp("ms"))
    pq.write_table(pa.table({"text": ["a", "b", "c"], "id": [1, 2, 3], "when": far}), path)
    assert as_tuples([path]) == [("a", 0, "1"), ("b", 1, "2"), ("c", 2, "3")]
    with pytest.raises(DataError, match=r"a\.parquet: row 2"):
        as_tuples([path], id_field="when")
    assert read_identities(str(path), [(2, 0)], id_field="when") == {}
    with pytest.raises(DataError, match=r"no field 'body' \(fields here: text, id, when\)"):
        as_tuples([path], text_field="body")
    pq.write_table(pa.table({"text": pa.array([b"fine", b"\xff"]).view(pa.string())}), path)
    with pytest.raises(DataError, match=r"a\.parquet: row 1: .*utf-8"):
        as_tuples([path])


def test_one_file_under_several_names_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.jsonl").write_text("")
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    names = ["a.jsonl", tmp_path / "a.jsonl", "deep/../a.jsonl", "b.jsonl", tmp_path, "*.jsonl"]
    assert expand(names) == ["a.jsonl"]
    assert expand(names[::-1]) == ["a.jsonl"]
    assert expand(names[2:]) == ["deep/../a.jsonl"]


def test_what_lies_behind_a_link_in_a_folder_is_read_and_links_back_are_no_trap(tmp_path: Path):
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "elsewhere/deep").mkdir(parents=True)
    (tmp_path / "elsewhere/deep/a.jsonl").write_text("")
    (inside / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/deep/back").symlink_to(inside)
    assert expand([inside]) == [str(inside / "linked/deep/a.jsonl")]


def test_links_of_links_are_followed_once_and_folders_as_deep_as_there_can_be(tmp_path: Path):
    """Two links in each of forty folders are a million million ways to the file in the last one."""
    for number in range(40):
        (tmp_path / f"{number:02d}").mkdir()
        for name in "ab":
            (tmp_path / f"{number:02d}" / name).symlink_to(tmp_path / f"{number + 1:02d}")
    deep = tmp_path / "40"
    deep.mkdir()
    (deep / "x.jsonl").write_text("")
    (tmp_path / "itself.jsonl").symlink_to("itself.jsonl")
    assert len(expand([tmp_path])) == 1
    for _ in range(1100):
        deep /= "d"
        deep.mkdir()
    (deep / "y.jsonl").write_text("")
    found = expand([tmp_path / "40"])
    (deep / "y.jsonl").unlink()
    while deep.name == "d":  # pytest cannot remove what is so deep
        deep.rmdir()
        deep = deep.parent
    assert sorted(os.path.basename(name) for name in found) == ["x.jsonl", "y.jsonl"]  # noqa: PTH119


def test_a_folder_that_cannot_be_looked_into_is_not_passed_over(tmp_path: Path):
    """Even root cannot look into what the kernel says of a process that is over."""
    (tmp_path / "a.jsonl").write_text("")
    over = subprocess.Popen(["true"])
    try:
        os.waitid(os.P_PID, over.pid, os.WEXITED | os.WNOWAIT)
        (tmp_path / "closed").symlink_to(f"/proc/{over.pid}/net")
        with pytest.raises(DataError, match=r"cannot look into the folder .*closed"):
            expand([tmp_path])
    finally:
        over.wait()


def test_a_file_name_that_is_not_utf8_is_a_sentence(tmp_path: Path):
    Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.jsonl")).write_text("")
    for pattern in (tmp_path, tmp_path / "*.jsonl"):
        with pytest.raises(DataError, match=r"caf\\xe9\.jsonl: the file's name is not UTF-8"):
            expand([pattern])


def test_what_is_not_there_is_named(tmp_path: Path):
    for pattern in (tmp_path / "no.jsonl", tmp_path / "*.jsonl", tmp_path):
        with pytest.raises(DataError, match=str(tmp_path).replace("*", r"\*")):
            expand([pattern])
    (tmp_path / "a.pdf").write_text("")
    with pytest.raises(DataError, match=r"a\.pdf.*\.parquet"):
        expand([tmp_path / "a.pdf"])
