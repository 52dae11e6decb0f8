"""Damaged token files of every format, made from sound ones: only a DataError may come of them.

`python -m tests.data_pipeline.fuzz_formats FORMAT CASES SEED FOLDER TOKENIZER` runs so many cases under limits of
memory, and prints the outcomes. A case that fails is told with its number: the same arguments give it again.
"""

import gzip
import json
import random
import re
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

from data_pipeline.errors import DataError
from data_pipeline.shards import ShardSet, verify
from data_pipeline.shards.foreign import bring_in, find
from data_pipeline.tokenizer import Tokenizer
from tests.data_pipeline import foreign_files as foreign

MEMORY = 3 << 30
"""Bytes of address space; libraries take most of it."""
GROWTH = 300 << 20
"""Bytes that the process may grow by while it reads damaged files of a few kilobytes."""
SECONDS = 2.0
"""Of the processor, for one case."""
HOSTILE = [0, 1, 2**7, 2**15, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 8, 2**64 - 1]


def damaged(name: str, data: bytes, chance: random.Random) -> bytes:
    """Change a file in one to three ways; a compressed one inside or outside."""
    inside = chance.random() < 0.5
    if inside and name.endswith(".gz"):
        return gzip.compress(damaged("", gzip.decompress(data), chance), mtime=0)
    if inside and name.endswith(".zstd"):
        return zstandard.compress(damaged("", zstandard.decompress(data), chance))
    for _ in range(chance.randint(1, 3)):
        data = chance.choice(CHANGES)(data, chance)
    return data


def sizes_told(files: dict[str, bytes]) -> dict[str, bytes]:
    """Write the true sizes into an index or a manifest, so that what is behind them is reached."""
    sizes = {name: len(data) for name, data in files.items()}
    sizes |= {name[:-5]: _unpacked_size(data) for name, data in files.items() if name.endswith(".zstd")}

    def correct(value: Any) -> Any:
        if isinstance(value, list):
            return [correct(item) for item in value]
        if not isinstance(value, dict):
            return value
        name = value.get("basename") or value.get("name")
        told = {"bytes": sizes[name], "size": sizes[name]} if name in sizes else {}
        return {key: told.get(key, correct(item)) for key, item in value.items()}

    told = {n: json.dumps(correct(json.loads(d))).encode() for n, d in files.items() if n.endswith(".json")}
    return {**files, **told}


def _unpacked_size(data: bytes) -> int:
    """Read as a stream: the size that a damaged frame claims to have would be allocated."""
    try:
        return len(zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data).read(1 << 20))
    except zstandard.ZstdError:
        return len(data)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _flip(data: bytes, chance: random.Random) -> bytes:
    if not data:
        return data
    place = chance.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << chance.randrange(8)]) + data[place + 1 :]


def _number(data: bytes, chance: random.Random) -> bytes:
    """Put a hostile number where one may be, mostly near the beginning."""
    width = chance.choice((1, 2, 4, 8))
    place = chance.randrange(min(len(data), chance.choice((40, len(data) or 1))) + 1)
    value = (chance.choice(HOSTILE) + chance.randint(-1, 1)) % 2 ** (8 * width)
    return data[:place] + value.to_bytes(width, "little") + data[place + width :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + data[place : place + 64] * chance.choice((2, 50)) + data[place + 64 :]


def _insert(data: bytes, chance: random.Random) -> bytes:
    place = chance.randrange(len(data) + 1)
    return data[:place] + chance.randbytes(chance.randint(1, 20)) + data[place:]


def _digits(data: bytes, chance: random.Random) -> bytes:
    """Replace a number written in digits: what JSON and tables are made of."""
    numbers = list(re.finditer(rb"-?\d+", data))
    if not numbers:
        return _number(data, chance)
    found = chance.choice(numbers)
    value = chance.choice([*map(str, HOSTILE), "-1", "1e999", "null", '"x"', "[]", "9" * 5000, "true"])
    return data[: found.start()] + value.encode() + data[found.end() :]


def _word(data: bytes, chance: random.Random) -> bytes:
    words = list(re.finditer(rb'"[^"]{1,40}"', data))
    if not words:
        return _flip(data, chance)
    found = chance.choice(words)
    value = chance.choice(['""', '"../../x"', "null", "3", "[" * 2000, '"ndarray"', '"pkl"', '"json"', '"zstd"', "{}"])
    return data[: found.start()] + value.encode() + data[found.end() :]


CHANGES: list[Callable[[bytes, random.Random], bytes]] = [
    _cut,
    _flip,
    _number,
    _number,
    _repeat,
    _insert,
    _digits,
    _word,
]


def sound(format: str, tokenizer: Tokenizer) -> list[dict[str, bytes]]:
    """Sound files of a format, in the shapes that it has."""
    generator = np.random.default_rng(1)
    documents = [np.append(generator.integers(1, 600, n), tokenizer.eos_id) for n in (5, 1, 40, 0, 17)]
    arrays = [foreign.mds_array(ids.astype("uint16")) for ids in documents]
    telling = [bytes([33]) + foreign.mds_array(ids.astype("int32")) for ids in documents]
    rows = [{"tokens": ids.tolist(), "text": "some text"} for ids in documents]
    made = {
        "megatron": [foreign.megatron(documents), foreign.megatron(documents, "int32", 2)],
        "datatrove": [foreign.datatrove(documents), foreign.datatrove(documents, "uint32")],
        "dolma": [foreign.dolma(documents), foreign.dolma(documents, "uint32")],
        "mds": [
            foreign.mds(arrays, "ndarray:uint16"),
            foreign.mds(telling, "ndarray", compression="zstd"),
            foreign.mds([json.dumps(ids.tolist()).encode() for ids in documents], "json"),
        ],
        "litdata": [
            foreign.litdata_tokens(documents),
            foreign.litdata_items(documents),
            foreign.litdata_items(documents, framed=True),
            foreign.litdata_rows(rows, "json"),
        ],
        "ours": [_set(foreign.dolma(documents), tokenizer), _set(foreign.megatron(documents), tokenizer)],
    }
    return made[format]


def _set(files: dict[str, bytes], tokenizer: Tokenizer) -> dict[str, bytes]:
    """A shard set a: its manifest, its ids, and ends with provenance or Megatron's index."""
    with tempfile.TemporaryDirectory() as folder:
        bring_in(find(foreign.write(Path(folder) / "set", files)), tokenizer, Path(folder) / "set/a")
        return {path.name: path.read_bytes() for path in (Path(folder) / "set").iterdir()}


def read_everything(prefix: Path, tokenizer: Tokenizer) -> None:
    """Do what a run, `inspect` and `verify` do with a shard set."""
    shards = ShardSet.open(prefix)
    shards.check_sizes()
    verify(prefix)
    if shards.num_tokens:
        shards.read(shards.num_tokens // 2, 1)
        shards.will_need(0, 10)
    for span in shards.documents_in(0, min(shards.num_tokens, 200)):
        shards.read(span.first, min(50, span.end - span.first))
        shards.provenance(span.document)
    shards.find_documents("doc-1")
    shards.find_records("file.json.gz", 0)


def attempt(format: str, folder: Path, tokenizer: Tokenizer) -> None:
    """Use the files of a folder as what they say they are."""
    prefix = folder / "a"
    if format != "ours":
        prefix = bring_in(find(folder, format), tokenizer, prefix).prefix
    read_everything(prefix, tokenizer)


def run(format: str, cases: int, seed: int, folder: Path, tokenizer: Tokenizer) -> Counter[str]:
    """Try so many damaged folders; AssertionError names the case that did what it must not."""
    shapes, outcomes = sound(format, tokenizer), Counter[str]()
    for number in range(cases):
        chance = random.Random(f"{format} {seed} {number}")
        files = dict(shapes[number % len(shapes)])
        name = chance.choice(sorted(files))
        files[name] = damaged(name, files[name], chance)
        if not name.endswith(".json") and chance.random() < 0.7:
            files = sizes_told(files)
        start = time.process_time()
        try:
            attempt(format, foreign.write(folder / "case", files), tokenizer)
            outcomes["accepted"] += 1
        except DataError as error:
            assert len(str(error)) < 10_000, f"case {number}: {len(str(error))} characters"
            outcomes["refused"] += 1
        except BaseException as error:
            raise AssertionError(f"{format}, seed {seed}, case {number}: {type(error).__name__}: {error}") from error
        elapsed = time.process_time() - start
        assert elapsed < SECONDS, f"{format}, seed {seed}, case {number} took {elapsed:.1f} s"
        shutil.rmtree(folder / "case")
    return outcomes


def main() -> None:
    """Run under limits."""
    format, cases, seed, folder, tokenizer = sys.argv[1:]
    loaded = Tokenizer.load(tokenizer)
    run(format, 3, -1, Path(folder), loaded)  # what is loaded only now is no growth
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = run(format, int(cases), int(seed), Path(folder), loaded)
    grown = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    assert grown < GROWTH, f"memory grew by {grown >> 20} MiB"
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main()
