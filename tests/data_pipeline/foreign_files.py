"""Token files as other software writes them, made from their descriptions: {name: bytes}."""

import gzip
import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import zstandard

Documents = Sequence[np.ndarray]
MEGATRON_CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "uint16": 8}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    """Put the files into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def megatron(documents: Documents, dtype: str = "uint16", sequences: int = 1, name: str = "books_text_document"):
    """A pair; each document is cut into so many sequences."""
    parts = [np.array_split(document, sequences) for document in documents]
    lengths = np.array([len(part) for document in parts for part in document], "<i4")
    item = np.dtype(dtype).itemsize
    offsets = (np.cumsum(lengths, dtype="<i8") - lengths) * item
    index = np.arange(len(documents) + 1, dtype="<i8") * sequences
    header = b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, MEGATRON_CODES[dtype], len(lengths), len(index))
    idx = header + lengths.tobytes() + offsets.astype("<i8").tobytes() + index.tobytes()
    return {f"{name}.bin": _raw(documents, dtype), f"{name}.idx": idx}


def datatrove(documents: Documents, dtype: str = "uint16", name: str = "00000_tokens.ds"):
    """Ids, ends, metadata."""
    size, ends = np.dtype(dtype).itemsize, np.cumsum([len(d) for d in documents], dtype="<u8")
    metadata = f"some/tokenizer|{size}\n{int(ends[-1])}\n1 kT"
    return {name: _raw(documents, dtype), f"{name}.index": ends.tobytes(), f"{name}.metadata": metadata.encode()}


def dolma(documents: Documents, dtype: str = "uint16", name: str = "part-0-00000"):
    """Ids without a header, and the table of documents."""
    table, place = "", 0
    for number, document in enumerate(documents, start=1):
        table += f"{place},{place + len(document)},doc-{number},corpus/file.json.gz,{number}\r\n"
        place += len(document)
    return {f"{name}.npy": _raw(documents, dtype), f"{name}.csv.gz": gzip.compress(table.encode(), mtime=0)}


def mds(samples: Sequence[bytes], encoding: str, column: str = "tokens", compression: str | None = None):
    """One shard of one column of any size; `samples` are the column's bytes."""
    rows = [struct.pack("<I", len(sample)) + sample for sample in samples]
    about = {
        "column_encodings": [encoding], "column_names": [column], "column_sizes": [None], "compression": compression,
        "format": "mds", "hashes": [], "size_limit": 67108864, "version": 2,
    }  # fmt: skip
    config = json.dumps(about, sort_keys=True).encode()
    offsets = 4 + 4 * (len(rows) + 1) + len(config) + np.cumsum([0, *map(len, rows)])
    raw = struct.pack("<I", len(rows)) + offsets.astype("<u4").tobytes() + config + b"".join(rows)
    name = "shard.00000.mds"
    shard = {**about, "raw_data": {"basename": name, "bytes": len(raw), "hashes": {}}, "samples": len(rows)}
    data = raw
    if compression == "zstd":
        data, name = zstandard.compress(raw), name + ".zstd"
    shard["zip_data"] = {"basename": name, "bytes": len(data), "hashes": {}} if compression else None
    return {name: data, "index.json": json.dumps({"shards": [shard], "version": 2}).encode()}


def mds_array(ids: np.ndarray) -> bytes:
    """An id array with its length, as `ndarray:TYPE` encodes it."""
    return bytes([4 | 1]) + struct.pack("<H", len(ids)) + ids.tobytes()


def litdata_tokens(documents: Documents, dtype: str = "uint16", number: int = 20):
    """One chunk for the TokensLoader."""
    items = [np.asarray(document, dtype).tobytes() for document in documents]
    return {**_chunk(items), **_litdata_index(len(items), [f"no_header_tensor:{number}"], "TokensLoader", None)}


def litdata_items(documents: Documents, framed: bool = False):
    """One chunk of items {"tokens": array, "id": str}, plain or in frames of two items."""
    items = []
    for number, document in enumerate(documents):
        leaves = [np.asarray(document, "<i4").tobytes(), f"d{number}".encode()]
        items.append(struct.pack("<2I", *map(len, leaves)) + b"".join(leaves))
    files = {"chunk-0-0.bin": _frames(items)} if framed else _chunk(items)
    index = _litdata_index(len(items), ["no_header_numpy:2", "str"], "PyTreeLoader", ["tokens", "id"])
    if framed:
        described = json.loads(index["index.json"])
        described["config"] |= {"compression": "zstd", "compression_level": "batch"}
        index = {"index.json": json.dumps(described).encode()}
    return {**files, **index}


def litdata_rows(rows: list[dict], data_format: str):
    """One chunk of empty items, its rows in an Arrow file at the end."""
    sink = io.BytesIO()
    table = pa.Table.from_pylist(rows)
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    ipc = sink.getvalue()
    chunk = _chunk([b""] * len(rows))["chunk-0-0.bin"] + ipc + struct.pack("<I", len(ipc)) + b"LDARW01\0"
    index = _litdata_index(len(rows), [data_format], "PyTreeLoader", list(rows[0]))
    return {"chunk-0-0.bin": chunk, **index}


def _raw(documents: Documents, dtype: str) -> bytes:
    return b"".join(np.asarray(document, dtype).tobytes() for document in documents)


def _chunk(items: list[bytes]) -> dict[str, bytes]:
    offsets = 4 * (len(items) + 2) + np.cumsum([0, *map(len, items)])
    return {"chunk-0-0.bin": struct.pack("<I", len(items)) + offsets.astype("<u4").tobytes() + b"".join(items)}


def _frames(items: list[bytes]) -> bytes:
    offsets = np.cumsum([0, *map(len, items)]).astype("<u4")
    frames = [(first, items[first : first + 2]) for first in range(0, len(items), 2)]
    head = b"LDFZ01\0\0" + struct.pack("<HHIII", 1, 0, len(items), 2, len(frames)) + offsets.tobytes()
    packed = [zstandard.compress(b"".join(part)) for _, part in frames]
    place, table = len(head) + 24 * len(frames), b""
    for (first, part), data in zip(frames, packed, strict=True):
        table += struct.pack("<IIQII", first, len(part), place, len(data), sum(map(len, part)))
        place += len(data)
    return head + table + b"".join(packed)


def _litdata_index(count: int, data_format: list[str], item_loader: str, keys: list[str] | None) -> dict[str, bytes]:
    leaf = {"type": None, "context": None, "children_spec": []}
    spec = leaf if keys is None else {"type": "builtins.dict", "context": json.dumps(keys), "children_spec": [leaf]}
    config = {
        "compression": None, "data_format": data_format, "data_spec": json.dumps([1, spec]), "encryption": None,
        "item_loader": item_loader,
    }  # fmt: skip
    chunks = [{"chunk_bytes": 0, "chunk_size": count, "dim": None, "filename": "chunk-0-0.bin"}]
    return {"index.json": json.dumps({"chunks": chunks, "config": config, "updated_at": "1"}).encode()}
