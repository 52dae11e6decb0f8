"""One pass over a file finds its digest and where it may be cut; the pieces are the file."""

import hashlib
import json
import random
from pathlib import Path

import pytest

from data_pipeline.read import Place, read, scan
from data_pipeline.read.document import BEGINNING
from data_pipeline.read.settings import FilesSource
from tests.data_pipeline.read_samples import ROWS, jsonl, parquet

SOURCE = FilesSource(kind="files", files=["-"])


def lines(count: int, ends: list[str]) -> bytes:
    """Records of very different lengths, blank lines and broken ones between them."""
    chance = random.Random(count)
    parts = []
    for number in range(count):
        text = "x" * int(chance.expovariate(1 / 3000))
        parts.append(
            chance.choice([json.dumps({"id": str(number), "text": text}), "{broken", *ends]) + chance.choice(ends)
        )
    return "".join(parts).encode()


@pytest.mark.parametrize("every", [1, 700, 1 << 20, 3 << 20, 1 << 40])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b'{"text": "a"}',
        b'\xef\xbb\xbf\n{"text": "a"}\n\n',
        b'\xef\xbb\xbf{"text": "a"}\n\xef\xbb\xbf\n{"text": "b"}',
        lines(2000, ["\n"]),
        lines(300, ["\n", "\r\n", " \t\n\x0c\n", "\n\n\n"]) + b"   ",
        jsonl(ROWS)[:-1],
    ],
    ids=["empty", "blank", "one", "mark", "marks", "long", "blanks", "no end"],
)
def test_the_pieces_are_the_file(tmp_path: Path, content: bytes, every: int):
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    advanced: list[int] = []
    found = scan(str(path), SOURCE, every, advanced.append)
    assert (found.size, found.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    assert sum(advanced) == len(content)
    assert len(found.cuts) <= len(content) / every
    places: list[Place] = [BEGINNING, *found.cuts]
    assert all(later.offset - place.offset >= every for place, later in zip(places, found.cuts, strict=False))
    ends = [place.offset for place in found.cuts] + [None]
    pieces = [list(read(str(path), SOURCE, place, end)) for place, end in zip(places, ends, strict=True)]
    assert [item for piece in pieces for item in piece] == list(read(str(path), SOURCE))


def test_there_are_cuts_where_they_were_asked_for(tmp_path: Path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(jsonl(ROWS))
    cuts = scan(str(path), SOURCE, 10_000).cuts
    assert len(cuts) > path.stat().st_size // 20_000
    assert [place.position for place in cuts] == sorted({place.position for place in cuts})


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.parquet", "a.csv", "a.txt"])
def test_other_files_are_only_digested(tmp_path: Path, name: str):
    path = tmp_path / name
    path.write_bytes(parquet(ROWS))
    found = scan(str(path), SOURCE, 100)
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.cuts == ()
