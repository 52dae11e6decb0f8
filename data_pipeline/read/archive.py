"""A WARC file cut into its records. The parsers there are pass over what they do not understand without a word."""

import re
from collections.abc import Iterator

from data_pipeline.read.input import LIMIT

_LONGEST_HEAD = 1 << 16
_AGAIN = 1 << 20
"""Bytes of a record with a wrong length, at most, in which the next record is looked for."""
_LENGTH = re.compile(rb"(?im)^content-length[ \t]*:[ \t]*(\d{1,18})[ \t]*\r?$")
_LENGTHS = re.compile(rb"(?im)^[^:\n]*content-length[^:\n]*:.*\n")
_WANTED = re.compile(rb"(?im)^warc-type[ \t]*:[ \t]*(response|resource|conversion)[ \t]*\r?$")
_NEXT = re.compile(rb"\n(?=WARC/\d)")
_BLANK = (b"\r\n", b"\n")


class Archive:
    """The records of an uncompressed WARC file, from a byte on at which one starts."""

    def __init__(self, blocks: Iterator[bytes], start: int) -> None:
        self.start = start
        """Byte at which the current record starts."""
        self.excerpt = b""
        """How it begins."""
        self._blocks = blocks
        self._data = b""
        self._at = 0
        self._before = start

    def records(self) -> Iterator[tuple[int, bytes | str | None]]:
        """Yield (offset, record) of each: its bytes, None for a type that holds no text, or what is wrong with it."""
        while True:
            self.start, self.excerpt = self._before + self._at, b""
            line = self._line()
            if not line:
                return
            if line not in _BLANK:
                self.excerpt = line[:200]
                yield self.start, self._record(line)

    def _record(self, line: bytes) -> bytes | str | None:
        if not line.startswith(b"WARC/"):
            return self._seek_next("no WARC record begins here")
        head = self._head(line)
        found = _LENGTH.search(head)
        if not found:
            return self._seek_next("the record's head is too long, cut short, or without a Content-Length")
        length, wanted = int(found[1]), _WANTED.search(head) is not None
        if length > LIMIT:
            return self._pass_over(length, wanted)
        body = self._take(length)
        ending = self._line()
        if len(body) == length and (ending in _BLANK or not ending):
            return _with_length(head, length) + body + b"\r\n\r\n" if wanted else None
        self._put_back(ending)
        if len(body) <= _AGAIN and (next_ := _NEXT.search(body)):
            self._put_back(body[next_.end() :])
        return self._seek_next("the record is shorter or longer than its Content-Length says")

    def _head(self, line: bytes) -> bytes:
        """Lines up to the blank one; nothing when there are too many."""
        lines, size = [line], len(line)
        while size < _LONGEST_HEAD and (line := self._line()):
            lines.append(line)
            size += len(line)
            if line in _BLANK:
                return b"".join(lines)
        return b""

    def _pass_over(self, length: int, wanted: bool) -> str | None:
        while length > 0 and (piece := self._take(min(length, LIMIT))):
            length -= len(piece)
        if length:
            return "the file ends inside the record"
        return f"the record is larger than {LIMIT >> 20} MiB" if wanted else None

    def _seek_next(self, problem: str) -> str:
        """Go on to the next line with which a record begins."""
        while (line := self._line()) and not line.startswith(b"WARC/"):
            pass
        self._put_back(line)
        return problem

    def _line(self) -> bytes:
        """The next line, or a piece of one that is too long for a head; nothing at the end of the file."""
        while not (end := self._data.find(b"\n", self._at) + 1) and len(self._data) - self._at < _LONGEST_HEAD:
            if not self._more():
                break
        end = end or len(self._data)
        line = self._data[self._at : end]
        self._at = end
        return line

    def _take(self, count: int) -> bytes:
        """So many bytes, or what is left."""
        parts, size = [self._data[self._at : self._at + count]], min(count, len(self._data) - self._at)
        self._at += size
        while size < count and self._more():
            parts.append(self._data[self._at : self._at + count - size])
            size += len(parts[-1])
            self._at += len(parts[-1])
        return b"".join(parts)

    def _put_back(self, data: bytes) -> None:
        self._data = data + self._data[self._at :]
        self._before += self._at - len(data)
        self._at = 0

    def _more(self) -> bool:
        block = next(self._blocks, b"")
        self._before += self._at
        self._data = self._data[self._at :] + block
        self._at = 0
        return bool(block)


def _with_length(head: bytes, length: int) -> bytes:
    """The head with this length and no other: FastWARC takes the last that it finds, and room for so many bytes."""
    first, _, others = head.partition(b"\n")
    return b"%b\nContent-Length: %d\r\n%b" % (first, length, _LENGTHS.sub(b"", others))
