"""MDS and litData: converted without unpickling, written as their own readers read them."""

import hashlib
import json
import os
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
import zstandard

from data_pipeline.errors import DataError
from data_pipeline.read import read_documents
from data_pipeline.shards import ShardSet, boundaries, verify
from data_pipeline.shards.foreign import bring_in, find, send_out
from data_pipeline.tokenizer import Tokenizer
from tests.data_pipeline import foreign_files as foreign

TEXTS = ["Hello there.", "", "Grüße aus 東京, <|endoftext|>"]


@pytest.fixture
def samples() -> list[np.ndarray]:
    """Ids of 20 samples; ends are where they are, not where samples end."""
    generator = np.random.default_rng(5)
    return [generator.integers(0, 600, n) for n in generator.integers(1, 300, 20).tolist()]


def documents_of(prefix: Path) -> list[np.ndarray]:
    shards = ShardSet.open(prefix)
    spans = [shards.document_span(number) for number in range(shards.num_documents)]
    return [shards.read(span.first, span.end - span.first) for span in spans]


def check(files: dict[str, bytes], expected: list[np.ndarray], tokenizer: Tokenizer, folder: Path, **options) -> None:
    done = bring_in(find(foreign.write(folder, files)), tokenizer, force=True, **options)
    assert verify(done.prefix) == []
    found = documents_of(done.prefix)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    origin = ShardSet.open(done.prefix).provenance(2)
    assert Path(origin.source).parent == folder and origin.position == 2


@pytest.mark.parametrize("dtype", ["uint16", "int32", "uint32", "int64", "uint64"])
@pytest.mark.parametrize("compression", [None, "zstd"])
def test_mds_of_arrays(samples, tokenizer: Tokenizer, tmp_path: Path, dtype: str, compression: str | None):
    arrays = [foreign.mds_array(ids.astype(dtype)) for ids in samples]
    check(foreign.mds(arrays, f"ndarray:{dtype}", compression=compression), samples, tokenizer, tmp_path / "in")


def test_mds_of_arrays_that_tell_their_type_and_of_fixed_shape(samples, tokenizer: Tokenizer, tmp_path: Path):
    telling = [bytes([33]) + foreign.mds_array(ids.astype("int32")) for ids in samples]
    check(foreign.mds(telling, "ndarray"), samples, tokenizer, tmp_path / "in")
    fixed = [np.resize(ids, 8) for ids in samples]
    check(
        foreign.mds([ids.astype("uint16").tobytes() for ids in fixed], "ndarray:uint16:8"), fixed, tokenizer, tmp_path
    )


def test_mds_of_bytes_needs_a_type_and_of_json_none(samples, tokenizer: Tokenizer, tmp_path: Path):
    bare = foreign.mds([ids.astype("int64").tobytes() for ids in samples], "bytes")
    with pytest.raises(DataError, match=r"nothing says of which type .*--dtype"):
        check(bare, samples, tokenizer, tmp_path / "in")
    check(bare, samples, tokenizer, tmp_path / "in", dtype="int64")
    written = foreign.mds([json.dumps(ids.tolist()).encode() for ids in samples], "json")
    check(written, samples, tokenizer, tmp_path / "in")


@pytest.mark.parametrize("make", ["mds", "litdata"])
def test_texts_are_encoded_and_ended(tokenizer: Tokenizer, tmp_path: Path, make: str):
    mds = foreign.mds([text.encode() for text in TEXTS], "str", "text")
    files = mds if make == "mds" else foreign.litdata_rows([{"text": text} for text in TEXTS], "str")
    expected = [np.append(ids, tokenizer.eos_id) if len(ids) else ids for ids in tokenizer.encode_batch(TEXTS)]
    check(files, expected, tokenizer, tmp_path / "in")
    assert tokenizer.decode(documents_of(tmp_path / "in")[2]) == TEXTS[2] + "<|endoftext|>"


def test_texts_in_mds_are_a_source_for_prepare(tmp_path: Path):
    folder = foreign.write(tmp_path, foreign.mds([text.encode() for text in TEXTS], "str", "text"))
    read = list(read_documents([folder / "shard.00000.mds"]))
    assert [document.text for document in read] == TEXTS and [document.position for document in read] == [0, 1, 2]
    path = folder / "shard.00000.mds"
    whole = path.read_bytes()
    for cut in range(0, len(whole), 3):
        path.write_bytes(whole[:cut])
        with pytest.raises(DataError, match=r"shard\.00000\.mds"):
            list(read_documents([path]))
    foreign.write(tmp_path, foreign.mds([b"cos\nsystem\n(S'true'\ntR."], "pkl", "text"))
    with pytest.raises(DataError, match="encoded as 'pkl', which is not read"):
        list(read_documents([path]))


def test_litdata_of_each_kind(samples, tokenizer: Tokenizer, tmp_path: Path):
    for dtype, number in (("uint16", 20), ("int64", 18), ("int32", 16)):
        check(foreign.litdata_tokens(samples, dtype, number), samples, tokenizer, tmp_path / "tokens")
    for framed in (False, True):
        check(foreign.litdata_items(samples, framed), samples, tokenizer, tmp_path / "items")
    rows = [{"tokens": ids.tolist()} for ids in samples]
    check(foreign.litdata_rows(rows, "json"), samples, tokenizer, tmp_path / "rows")


@pytest.mark.parametrize("make", ["mds", "litdata"])
def test_pickles_are_refused_and_never_run(tokenizer: Tokenizer, tmp_path: Path, make: str):
    proof = tmp_path / "run"
    pickled = b"cos\nsystem\n(S'touch " + str(proof).encode() + b"'\ntR."
    if make == "mds":
        files = foreign.mds([pickled], "pkl")
    else:
        files = foreign.litdata_tokens([np.frombuffer(pickled, "u1")], "uint8", 11)
        files["index.json"] = files["index.json"].replace(b"no_header_tensor:11", b"pickle")
    with pytest.raises(DataError, match="pickles, which can run any program"):
        bring_in(find(foreign.write(tmp_path / "in", files)), tokenizer)
    assert not proof.exists()


def test_the_column_is_named_or_plain(samples, tokenizer: Tokenizer, tmp_path: Path):
    files = foreign.litdata_items(samples)
    files["index.json"] = files["index.json"].replace(b"tokens", b"labels")
    with pytest.raises(DataError, match=r"several columns: labels \(no_header_numpy:2\), id \(str\); .*--column"):
        check(files, samples, tokenizer, tmp_path / "in")
    with pytest.raises(DataError, match="no column 'ids'; there are: labels"):
        check(files, samples, tokenizer, tmp_path / "in", column="ids")
    check(files, samples, tokenizer, tmp_path / "in", column="labels")
    with pytest.raises(DataError, match="encoded as 'jpeg': neither ids nor text"):
        check(foreign.mds([b"x"], "jpeg"), samples, tokenizer, tmp_path / "in")


def test_what_does_not_fit_is_a_sentence(samples, tokenizer: Tokenizer, tmp_path: Path):
    for wrong in (b"[1.5, 2]", b'["7"]', b"[true]", b"0.5"):
        with pytest.raises(DataError, match=r"sample 0 holds .*; ids are integers"):
            check(foreign.mds([wrong], "json"), samples, tokenizer, tmp_path / "in")
    lying = foreign.mds([foreign.mds_array(np.arange(5, dtype="uint16"))[:-2]], "ndarray:uint16")
    with pytest.raises(DataError, match=r"sample 0 is damaged \(its shape is \[5\], it has 4 values"):
        check(lying, samples, tokenizer, tmp_path / "in")
    shaped = foreign.litdata_tokens([np.array([20, 1, 5, 0, 7, 7])], ">u4")
    shaped["index.json"] = shaped["index.json"].replace(b"no_header_tensor:20", b"tensor")
    with pytest.raises(DataError, match=r"sample 0 is damaged \(its shape is \[5\], it has 6 values"):
        check(shaped, samples, tokenizer, tmp_path / "lit")
    arrays = [foreign.mds_array(ids.astype("uint16")) for ids in [*samples, np.array([700])]]
    with pytest.raises(DataError, match=r"shard\.00000\.mds: sample 20 has the id 700, the tokenizer has 600 ids"):
        check(foreign.mds(arrays, "ndarray:uint16"), samples, tokenizer, tmp_path / "in")
    files = foreign.mds(arrays[:3], "ndarray:uint16")
    for change, message in (
        (lambda index: index["shards"][0]["raw_data"].update(basename="../../etc/passwd"), "outside its folder"),
        (lambda index: index["shards"][0].update(samples=4), "does not hold the 4 samples"),
        (lambda index: index["shards"][0]["raw_data"].update(hashes={"sha1": "0" * 40}), "its sha1 is"),
        (lambda index: index["shards"][0].update(version=3), r"shards\.0\.version"),
        (lambda index: index["shards"][0].update(column_sizes=[]), "not as many encodings"),
    ):
        index = json.loads(files["index.json"])
        change(index)
        with pytest.raises(DataError, match=message):
            check({**files, "index.json": json.dumps(index).encode()}, [], tokenizer, tmp_path / "in")
    shard = bytearray(files["shard.00000.mds"])
    shard[8:12], shard[12:16] = shard[12:16], shard[8:12]
    with pytest.raises(DataError, match="the offsets of its samples do not rise"):
        check({**files, "shard.00000.mds": bytes(shard)}, [], tokenizer, tmp_path / "in")
    assert not list(tmp_path.glob("in.manifest.json"))


def test_a_compressed_shard_that_grows_without_end_is_stopped(tokenizer: Tokenizer, tmp_path: Path):
    files = foreign.mds([foreign.mds_array(np.arange(5, dtype="uint16"))], "ndarray:uint16", compression="zstd")
    files["shard.00000.mds.zstd"] = zstandard.compress(bytes(1 << 28))
    with pytest.raises(DataError, match="unpacks to more than the"):
        check(files, [], tokenizer, tmp_path / "in")


@pytest.mark.parametrize("format", ["mds", "litdata"])
def test_what_is_exported_comes_back_the_same(shards: ShardSet, tokenizer: Tokenizer, tmp_path: Path, format: str):
    assert send_out(shards, tmp_path / "out", format, file_bytes=5000) == shards.num_documents
    assert len(list((tmp_path / "out").iterdir())) > 5
    done = bring_in(find(tmp_path / "out"), tokenizer)
    assert done.manifest.origin == format and done.manifest.num_tokens == shards.num_tokens
    np.testing.assert_array_equal(np.concatenate(documents_of(done.prefix)), shards.read(0, shards.num_tokens))
    assert len(documents_of(done.prefix)) == shards.num_documents
    with pytest.raises(DataError, match="is there already"):
        send_out(shards, tmp_path / "out", format)


def test_documents_without_tokens_are_not_exported(tokenizer: Tokenizer, tmp_path: Path, monkeypatch):
    """Wherever they stand in the blocks in which boundaries are read."""
    files = foreign.datatrove([np.arange(n) for n in (0, 3, 0, 0, 5, 0)])
    shards = ShardSet.open(bring_in(find(foreign.write(tmp_path / "in", files)), tokenizer).prefix)
    for block in range(1, 7):
        monkeypatch.setattr(boundaries, "_BLOCK", block)
        assert send_out(shards, tmp_path / f"out-{block}", "mds") == 2


def test_an_exported_file_is_what_its_index_says(shards: ShardSet, tmp_path: Path):
    send_out(shards, tmp_path / "out", "mds")
    (shard,) = json.loads((tmp_path / "out/index.json").read_text())["shards"]
    data = (tmp_path / "out" / shard["raw_data"]["basename"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == shard["raw_data"]["hashes"]["sha256"]
    assert struct.unpack_from("<I", data)[0] == shard["samples"] == shards.num_documents


READERS = {
    "mds": """
import json, sys
from streaming import LocalDataset
rows = LocalDataset(sys.argv[1])
print(json.dumps([rows[n]["tokens"].tolist() for n in range(len(rows))]))
""",
    "litdata": """
import json, sys
from litdata import StreamingDataset
from litdata.streaming.item_loader import TokensLoader
rows = StreamingDataset(sys.argv[1], item_loader=TokensLoader(block_size=16), shuffle=False)
print(json.dumps([rows[n].tolist() for n in range(len(rows))]))
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("format", READERS)
def test_their_own_readers_read_what_is_exported(shards: ShardSet, tmp_path: Path, format: str):
    """Needs mosaicml-streaming or litdata in an environment of its own: MEGAMODEL_MDS_PYTHON, MEGAMODEL_LITDATA_PYTHON.

    `MEGAMODEL_MDS_PYTHON=~/mds/bin/python pytest -m slow tests/data_pipeline/test_formats_samples.py`
    """
    python = interpreter(format)
    send_out(shards, tmp_path / "out", format)
    done = subprocess.run(
        [python, "-c", READERS[format], str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    rows = json.loads(done.stdout.splitlines()[-1])
    if format == "mds":
        assert [len(row) for row in rows] == [len(document) for document in documents_of(shards.prefix)]
    read = np.concatenate(rows)
    assert len(read) > shards.num_tokens - 16
    np.testing.assert_array_equal(read, shards.read(0, len(read)))


WRITERS = {
    "mds": """
import json, sys
import numpy as np
from streaming import MDSWriter
samples = [np.array(ids) for ids in json.load(open(sys.argv[1]))]
for name, columns, make, options in (
    ("arrays", {"tokens": "ndarray:uint16", "id": "str"}, lambda ids: {"tokens": ids.astype("uint16"), "id": "a"}, {}),
    ("telling", {"tokens": "ndarray"}, lambda ids: {"tokens": ids.astype("int32")}, {"hashes": ["sha1", "xxh64"]}),
    ("zstd", {"tokens": "ndarray:int32"}, lambda ids: {"tokens": ids.astype("int32")}, {"compression": "zstd:7"}),
    ("gz", {"tokens": "ndarray:int64"}, lambda ids: {"tokens": ids.astype("int64")}, {"compression": "gz"}),
    ("json", {"n": "int", "tokens": "json"}, lambda ids: {"tokens": ids.tolist(), "n": 1}, {}),
):
    with MDSWriter(columns=columns, out=f"{sys.argv[2]}/{name}", size_limit=3000, **options) as writer:
        for ids in samples:
            writer.write(make(ids))
""",
    "litdata": """
import json, sys
import numpy as np, torch
from litdata.streaming.item_loader import TokensLoader
from litdata.streaming.writer import BinaryWriter
samples = [np.array(ids) for ids in json.load(open(sys.argv[1]))]
for name, make, options in (
    ("tokens", lambda ids: torch.tensor(ids), {"chunk_size": 2000, "item_loader": TokensLoader()}),
    ("zstd", lambda ids: torch.tensor(ids), {"chunk_size": 2000, "item_loader": TokensLoader(), "compression": "zstd",
                                             "compression_level": "chunk"}),
    ("items", lambda ids: {"tokens": ids.astype("int32"), "id": "a", "n": 3}, {"chunk_size": 7}),
    ("frames", lambda ids: {"tokens": ids.astype("int32")}, {"chunk_size": 7, "compression": "zstd"}),
    ("rows", lambda ids: {"tokens": ids.tolist()}, {"chunk_size": 7}),
    ("sample", lambda ids: {"tokens": ids.astype("int32")},
     {"chunk_size": 7, "compression": "zstd", "compression_level": "sample"}),
):
    writer = BinaryWriter(f"{sys.argv[2]}/{name}", **options)
    for number, ids in enumerate(samples):
        writer[number] = make(ids)
    writer.done()
    writer.merge(1)
""",
}


@pytest.mark.slow
@pytest.mark.parametrize("format", WRITERS)
def test_what_their_own_writers_write_is_read(samples, tokenizer: Tokenizer, tmp_path: Path, format: str):
    """Needs mosaicml-streaming or litdata, as the test above says."""
    python = interpreter(format)
    (tmp_path / "samples.json").write_text(json.dumps([ids.tolist() for ids in samples]))
    arguments = [str(tmp_path / "samples.json"), str(tmp_path)]
    subprocess.run([python, "-c", WRITERS[format], *arguments], check=True, capture_output=True)
    folders = [path.parent for path in tmp_path.glob("*/index.json")]
    assert len(folders) >= 5
    for folder in folders:
        done = bring_in(find(folder), tokenizer)
        found = documents_of(done.prefix)
        assert len(found) == len(samples), folder
        assert all(np.array_equal(one, other) for one, other in zip(found, samples, strict=True)), folder


def interpreter(name: str) -> str:
    variable = f"MEGAMODEL_{name.upper()}_PYTHON"
    python = os.environ.get(variable)
    if python is None:
        pytest.skip(f"{variable} names no interpreter")
    return python
