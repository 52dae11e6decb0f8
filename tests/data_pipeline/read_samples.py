"""Small whole files of every format: what the fuzzer mutates."""

import csv
import gzip
import io
import json
import random
import zlib

import pyarrow as pa
import pyarrow.parquet as pq

_CHANCE = random.Random(4)
TEXTS = [
    "plain",
    'with "quotes", commas,\tand tabs',
    "two\nlines\r\nand three\n",
    "中文，古詩\n床前明月光",
    "a\u2028b\u0085c \U0001f600",
    "<p>not markup</p>",
    *("".join(_CHANCE.choices('abc ,"\n\t中é\\', k=_CHANCE.randrange(2000))) + "." for _ in range(300)),
]
ROWS = [{"id": f"id-{number}", "text": text, "n": [number]} for number, text in enumerate(TEXTS)]
"""Records with everything in them that a format must quote."""


def jsonl(rows: list[dict]) -> bytes:
    """One object a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def table(rows: list[dict], delimiter: str = ",") -> bytes:
    """A table of text."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=delimiter)
    writer.writerow(["n", "text", "id"])
    writer.writerows([row["n"][0], row["text"], row["id"]] for row in rows)
    return file.getvalue().encode()


def parquet(rows: list[dict], **options) -> bytes:
    """Several row groups."""
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, row_group_size=-(-len(rows) // 4), **options)
    return file.getvalue()


def arrow(rows: list[dict], of_file: bool = False) -> bytes:
    """A stream, or a file with a footer."""
    file, columns = io.BytesIO(), pa.Table.from_pylist(rows)
    with (pa.ipc.new_file if of_file else pa.ipc.new_stream)(file, columns.schema) as writer:
        writer.write_table(columns, max_chunksize=-(-len(rows) // 4))
    return file.getvalue()


def warc_record(
    number: int, body: bytes, kind: str = "response", head: str = "", content_type: str = "text/html; charset=utf-8"
) -> bytes:
    """A record of a WARC file; of a response, `head` are further HTTP headers."""
    if kind == "response":
        body = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\n{head}\r\n".encode() + body
        content_type = "application/http; msgtype=response"
    return (
        f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Record-ID: id-{number}\r\nWARC-Target-URI: http://a/{number}\r\n"
        f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    ).encode() + (body + b"\r\n\r\n")


def warc(rows: list[dict]) -> bytes:
    """One page a record."""
    return b"".join(warc_record(number, row["text"].encode()) for number, row in enumerate(rows))


PAGE = "<html><head><title>題</title></head><body>古詩 and text</body></html>"


def crawl() -> bytes:
    """The kinds of records and of content that crawlers write."""
    chunked = (
        b"".join(b"%x;name=value\r\n%s\r\n" % (len(part), part) for part in (PAGE.encode()[:20], PAGE.encode()[20:]))
        + b"0\r\nTrailer: field\r\n\r\n"
    )
    return b"".join(
        [
            warc_record(0, b"software: x\r\n", "warcinfo", content_type="application/warc-fields"),
            warc_record(1, PAGE.encode("gbk"), content_type="text/html; charset=gb2312"),
            warc_record(2, gzip.compress(PAGE.encode()), head="Content-Encoding: gzip\r\n"),
            warc_record(3, zlib.compress(PAGE.encode()), head="Content-Encoding: deflate\r\n"),
            warc_record(4, chunked, head="Transfer-Encoding: chunked\r\n"),
            warc_record(5, b"GET / HTTP/1.1\r\n\r\n", "request", content_type="application/http; msgtype=request"),
            warc_record(6, PAGE.encode(), "conversion", content_type="text/plain"),
            warc_record(7, PAGE.encode(), "resource", content_type="text/html"),
            warc_record(8, b"\x89PNG", content_type="image/png"),
            warc_record(9, PAGE.encode(), head="Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n"),
            warc_record(10, zlib.compress(PAGE.encode())[2:-4], head="Content-Encoding: deflate\r\n"),
            warc_record(11, PAGE.encode(), head="Content-Encoding: deflate\r\n"),
        ]
    )


FEW = ROWS[:40]
SAMPLES: dict[str, list[bytes]] = {
    "jsonl": [jsonl(FEW), b"\xef\xbb\xbf" + jsonl(FEW[:3]).replace(b"\n", b"\r\n\n")],
    "json": [
        json.dumps(FEW, ensure_ascii=False).encode(),
        json.dumps({"version": 1, "data": FEW}, indent=1).encode(),
        json.dumps(FEW[1]).encode(),
        jsonl(FEW),
    ],
    "csv": [table(FEW), b'text\r\n"a"\r\nb\r\n'],
    "tsv": [table(FEW, "\t")],
    "txt": ["a text\n中文\n".encode() * 20],
    "html": [
        b'<html><head><meta charset="gb2312"></head><body>' + "古詩 text".encode("gbk") * 20 + b"</body></html>",
        "<!doctype html><html><body>é text</body></html>".encode("utf-16"),
    ],
    "parquet": [
        parquet(FEW),
        parquet(FEW, use_dictionary=False, compression="zstd", data_page_version="2.0", write_page_checksum=True),
        parquet(
            FEW, use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY", "id": "DELTA_LENGTH_BYTE_ARRAY"}
        ),
        parquet(FEW, compression="gzip", store_schema=False),
    ],
    "arrow": [arrow(FEW), arrow(FEW, of_file=True)],
    "warc": [warc(FEW[:10]), crawl()],
}
"""By format, what the fuzzer mutates."""
