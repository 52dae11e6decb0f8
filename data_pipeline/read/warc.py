"""WARC: the pages of a web crawl, and the texts in .wet files."""

import io
import re
import zlib
from collections.abc import Iterator
from typing import Any

from data_pipeline.read.archive import Archive
from data_pipeline.read.document import Broken, Document, Place
from data_pipeline.read.html_page import decode_page
from data_pipeline.read.input import LIMIT, Damaged, Input
from data_pipeline.read.lines import blocks

SUFFIXES = (".warc", ".wet")

_TEXT = re.compile(r"text/html|text/plain|application/xhtml\+xml", re.IGNORECASE)
_CHUNKED = re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r?\n")


def read(file: Input, start: Place, end: int | None) -> Iterator[Document | Broken]:
    """Yield the pages from record `start` on: HTML and plain text of responses with status 200, of resources and of
    conversions. The id is the WARC-Record-ID; of HTML the text is its source.

    Every record of the file has a number, also those that are passed over.
    """
    position = start.position
    archive = Archive(blocks(file, start.offset), start.offset)
    try:
        for offset, record in archive.records():
            if isinstance(record, str):
                yield file.broken(position, offset, record, archive.excerpt)
            elif record is not None and (item := _page(file, record, position, offset)):
                yield item
            position += 1
    except Damaged as damage:
        yield file.broken(position, archive.start, str(damage), archive.excerpt)


def _page(file: Input, record: bytes, position: int, offset: int) -> Document | Broken | None:
    """The text in a record; None when it holds something else."""
    from fastwarc.warc import WarcRecord

    try:
        parsed = WarcRecord.from_bytes(record)
        kind, text = _response(parsed) if parsed.is_http else _resource(parsed)
    except (OSError, ValueError, zlib.error) as error:
        return file.broken(position, offset, f"the record cannot be decoded ({error})", record)
    if text is None:
        return None
    fields = {file.id_field: parsed.record_id, file.text_field: text}
    return file.document(fields, position, offset, is_html="html" in kind.lower())


def _response(record: Any) -> tuple[str, str | None]:
    """Content type and text; no text where the record holds none."""
    record.parse_http()
    headers, kind = record.http_headers, record.http_content_type or ""
    if headers.status_code != 200 or not _TEXT.match(kind):
        return kind, None
    body = record.reader.read()
    if "chunked" in (headers.get("Transfer-Encoding") or "").lower() and _CHUNKED.match(body):
        body = _unchunked(body)
    for coding in reversed((headers.get("Content-Encoding") or "").lower().split(",")):
        body = _decoded(body, coding.strip())
    return kind, decode_page(body, record.http_charset)


def _resource(record: Any) -> tuple[str, str | None]:
    kind = record.headers.get("Content-Type") or ""
    return kind, decode_page(record.reader.read()) if _TEXT.match(kind) else None


def _unchunked(body: bytes) -> bytes:
    """Put chunks together, whatever extensions they have (RFC 9112, 7.1); FastWARC refuses those."""
    parts, end = [], 0
    while end < len(body):
        head = _CHUNKED.match(body, end)
        size = int(head[1], 16) if head else -1
        if head is None or size > len(body) - head.end():
            raise ValueError("its chunked content is damaged or cut short")
        if size == 0:
            break
        parts.append(body[head.end() : head.end() + size])
        end = head.end() + size + 2
    return b"".join(parts)


def _decoded(body: bytes, coding: str) -> bytes:
    """Undo a Content-Encoding. Many archives keep the header with a body that is decoded already."""
    from fastwarc.stream_io import BrotliReader

    if coding in ("gzip", "x-gzip") and body.startswith(b"\x1f\x8b"):
        return _inflated(body, 31)
    if coding == "deflate":
        return _inflated(body, 15) if body[:1] == b"\x78" else _inflated_if_raw(body)
    if coding == "br" and not body.lstrip().startswith(b"<"):
        return _bounded(BrotliReader(io.BytesIO(body)).read(LIMIT + 1))
    return body


def _inflated_if_raw(body: bytes) -> bytes:
    """Undo a deflate without the header that it should have; a body that is no such thing stays."""
    stream = zlib.decompressobj(-15)
    try:
        data = stream.decompress(body, LIMIT + 1)
    except zlib.error:
        return body
    return data if stream.eof and not stream.unused_data else body


def _inflated(body: bytes, window: int) -> bytes:
    stream = zlib.decompressobj(window)
    data = stream.decompress(body, LIMIT + 1)
    if len(data) <= LIMIT and not stream.eof:
        raise ValueError("its compressed content is cut short")
    return _bounded(data)


def _bounded(data: bytes) -> bytes:
    if len(data) > LIMIT:
        raise ValueError(f"its content is larger than {LIMIT >> 20} MiB")
    return data
