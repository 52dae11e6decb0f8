"""Mutated files of one format, read one after the other in a process with little memory; started by test_read_fuzz.

    python -m tests.data_pipeline.read_fuzz FORMAT[.gz|.zst] FIRST LAST FOLDER

Each case is a pure function of its number. Ends with 0 when nothing but documents, broken records and DataError came
out, the same from any start, each in time.
"""

import faulthandler
import gzip
import json
import random
import resource
import sys
from collections import Counter
from pathlib import Path

import zstandard

from data_pipeline.errors import DataError
from data_pipeline.read import Broken, Document, Place, read, read_identities, scan
from data_pipeline.read.settings import FilesSource
from tests.data_pipeline.read_samples import SAMPLES

MEMORY = 3 << 30
"""Bytes of address space; the libraries alone map about 1.4 GiB, and Arrow loses some 8 KiB at each damaged stream."""
SECONDS = 20
"""For one case, on a busy machine."""

COMPRESS = {"": bytes, ".gz": lambda data: gzip.compress(data, 1), ".zst": zstandard.compress}
HOSTILE = (
    b"\xff\xff\xff\x7f", b"\xff" * 8, b"\0" * 8, b"99999999999999999999", b"-1", b"4294967296", b"\r\n\r\n",
    b'"', b"[" * 2000, b"{", b"]}", b"\\", b"\\ud800", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\n", b"\r", b",", b"\0",
    b"Content-Length: 2147483648\r\n", b"WARC/1.0\r\n", b"<!--", b"<![CDATA[", b'charset="utf-7"', b"1e999",
)  # fmt: skip


def mutate(chance: random.Random, data: bytes) -> bytes:
    """Cut, flip, overwrite, repeat, splice or insert, once to four times."""
    for _ in range(chance.randint(1, 4)):
        data = chance.choice(MUTATIONS)(chance, bytearray(data or b"\0"))
    return data


def cut(chance: random.Random, data: bytearray) -> bytes:
    return bytes(data[: chance.randrange(len(data) + 1)])


def flip(chance: random.Random, data: bytearray) -> bytes:
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return bytes(data)


def flip_near_an_end(chance: random.Random, data: bytearray) -> bytes:
    """Heads and footers are where lengths are."""
    for _ in range(chance.randint(1, 4)):
        distance = min(int(chance.expovariate(1 / 200)), len(data) - 1)
        data[chance.choice((distance, -1 - distance))] ^= 1 << chance.randrange(8)
    return bytes(data)


def insert(chance: random.Random, data: bytearray) -> bytes:
    at = chance.randrange(len(data) + 1)
    return bytes(data[:at] + chance.choice(HOSTILE) + data[at:])


def overwrite(chance: random.Random, data: bytearray) -> bytes:
    piece = chance.choice(HOSTILE)
    at = chance.randrange(len(data))
    data[at : at + len(piece)] = piece
    return bytes(data)


def splice(chance: random.Random, data: bytearray) -> bytes:
    """Repeat a part somewhere else, or leave it out."""
    first, second = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    if chance.random() < 0.5:
        return bytes(data[:first] + data[second:])
    return bytes(data[:first] + data[second : second + 4096] + data[first:])


MUTATIONS = (cut, flip, flip_near_an_end, insert, overwrite, splice)


def check(path: Path, source: FilesSource, chance: random.Random) -> Counter[str]:
    """Read one file; fails with AssertionError, or with whatever else a reader lets through."""
    try:
        items = list(read(str(path), source))
    except DataError:
        return Counter(refused=1)
    assert all(isinstance(item, Document | Broken) for item in items)
    positions = [item.position for item in items]
    assert positions == sorted(set(positions)), positions
    for item in items:
        text = item.text if isinstance(item, Document) else item.reason
        assert isinstance(text, str) and text.encode() is not None
    if items:
        number = chance.randrange(len(items))
        start = Place(items[number].position, items[number].offset)
        assert list(read(str(path), source, start)) == items[number:], number
        read_identities(str(path), [start])
    cuts = scan(str(path), source, 700).cuts
    ends = [cut.offset for cut in cuts] + [None]
    pieces = [read(str(path), source, place, end) for place, end in zip([Place(), *cuts], ends, strict=True)]
    assert [item for piece in pieces for item in piece] == items
    return Counter(type(item).__name__ for item in items)


def main() -> None:
    """Run the cases and print how many of each outcome there were."""
    name, first, last, folder = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])
    format_, _, compression = name.partition(".")
    compress = COMPRESS["." + compression if compression else ""]
    source = FilesSource(kind="files", files=["-"])
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    path, outcomes = folder / f"case.{name}", Counter[str]()
    for number in range(first, last):
        chance = random.Random(f"{name} {number}")
        data = chance.choice(SAMPLES[format_])
        inside = compression == "" or chance.random() < 0.3
        path.write_bytes(compress(mutate(chance, data)) if inside else mutate(chance, compress(data)))
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            outcomes += check(path, source, chance)
        except BaseException as error:
            raise SystemExit(f"case {number} of {name}: {error!r}") from error
        faulthandler.cancel_dump_traceback_later()
    print(json.dumps({**outcomes, "cases": last - first}))


if __name__ == "__main__":
    main()
