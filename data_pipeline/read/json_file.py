"""JSON: an array of records, one record, several one after the other, or an object that holds one array of records."""

import re
from collections.abc import Iterator
from typing import Any

from data_pipeline.read.document import Broken, Document, Place
from data_pipeline.read.input import LIMIT, Damaged, Input
from data_pipeline.read.json_value import check_values, parse
from data_pipeline.read.lines import blocks

SUFFIXES = (".json",)

_SPACE = re.compile(rb"(?:\xef\xbb\xbf)?[ \t\r\n]*")  # a byte order mark may come first
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[{\]}"]', re.DOTALL)
_SCALAR = re.compile(rb'[^\s,\[\]{}"]+')
_DEEPEST = 1000
_LONGEST_SCALAR = 1 << 20


def read(file: Input, start: Place, end: int | None) -> Iterator[Document | Broken]:
    """Yield the records from number `start.position` on.

    The elements of an array are read one by one, however long it is; an object with an array is read whole, and may
    have LIMIT bytes. An element that is no valid JSON is one broken record; where it is not clear where it ends, so is
    the rest.
    """
    text, position = _Text(blocks(file)), 0
    try:
        for offset, value in _values(text):
            for item in _items(file, value, position, offset):
                if position >= start.position:
                    yield item
                position += 1
    except (Damaged, ValueError) as error:
        yield file.broken(position, text.offset, str(error), text.rest)


def _items(file: Input, value: bytes, position: int, offset: int) -> Iterator[Document | Broken]:
    """The record that a value is, or the records in it."""
    try:
        record = parse(value)
    except ValueError as error:
        yield file.broken(position, offset, str(error), value)
        return
    for number, one in enumerate(_inside(record, file.text_field)):
        yield file.document(one, position + number, offset, value)


def _inside(value: Any, text_field: str) -> list[Any]:
    """The records of an object with one array of them; anything else is a record itself."""
    if isinstance(value, dict) and text_field not in value:
        arrays = [field for field in value.values() if isinstance(field, list)]
        if len(arrays) == 1:
            return arrays[0]
    return [value]


def _values(text: "_Text") -> Iterator[tuple[int, bytes]]:
    """Yield (offset, JSON text) of each element when the file is an array, of each value otherwise."""
    array = text.next() == b"["
    if array:
        text.skip(1)
    while (character := text.next()) != (b"]" if array else b""):
        if not character:
            raise ValueError("the file ends inside an array")
        offset = text.offset
        yield offset, text.value()
        if array and text.next() == b",":
            text.skip(1)
        elif array and text.next() != b"]":
            raise ValueError("expected , or ] after an element of the array")
    if array:
        text.skip(1)
        if text.next():
            raise ValueError("something follows the end of the array")


class _Text:
    """JSON text that is read as it is needed."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._data = b""
        self._at = self._before = 0

    @property
    def offset(self) -> int:
        """Bytes of the file before the current place."""
        return self._before + self._at

    @property
    def rest(self) -> bytes:
        """What follows, as far as it is read."""
        return self._data[self._at : self._at + 200]

    def skip(self, count: int) -> None:
        """Pass over some bytes that were seen."""
        self._at += count

    def next(self) -> bytes:
        """The next byte that is no space, without passing over it; none at the end of the file."""
        while True:
            self._at = _SPACE.match(self._data, self._at).end()  # type: ignore[union-attr]
            if self._at < len(self._data) or not self._more():
                return self._data[self._at : self._at + 1]

    def value(self) -> bytes:
        """Pass over the value that begins here. ValueError where none does, or it does not end."""
        first = self._data[self._at : self._at + 1]
        end = self._end_of_nested() if first in b'{["' else self._end_of_scalar()
        value = self._data[self._at : end]
        self._at = end
        return value

    def _end_of_nested(self) -> int:
        depth, at = 0, 0
        while True:
            for token in _TOKEN.finditer(self._data, self._at + at):
                character = token[0]
                if character == b'"':
                    at = token.start() - self._at
                    break
                at = token.end() - self._at
                depth += (character in (b"{", b"[")) - (character in (b"}", b"]"))
                if depth == 0:
                    return self._at + at
                if depth > _DEEPEST:
                    raise ValueError(f"more than {_DEEPEST} arrays and objects inside each other")
            else:
                at = len(self._data) - self._at
            if not self._more(self._twice()):
                raise ValueError("the file ends inside a value")

    def _end_of_scalar(self) -> int:
        while found := _SCALAR.match(self._data, self._at):
            if len(found[0]) > _LONGEST_SCALAR:
                raise ValueError("a number or word without end")
            if found.end() < len(self._data) or not self._more():
                return self._at + len(found[0])
        raise ValueError(f"no value begins with {self.rest[:1].decode(errors='replace')!r}")

    def _twice(self) -> int:
        """How much to have next, of a value that does not end in what there is."""
        had = len(self._data) - self._at
        if had > LIMIT:
            raise ValueError(f"a value is longer than {LIMIT >> 20} MiB; write one record a line (.jsonl)")
        check_values(self._data)
        return 2 * had

    def _more(self, wanted: int = 1) -> bool:
        """Read on until there are so many bytes from the current place, one block at least; False where none is."""
        self._data = self._data[self._at :]
        self._before += self._at
        self._at = 0
        parts, length = [self._data], len(self._data)
        try:
            for block in self._blocks:
                parts.append(block)
                length += len(block)
                if length >= wanted:
                    break
        except Damaged as damage:
            self._blocks = _raising(damage)  # told again, when what came before it is used up
        self._data = b"".join(parts)
        if len(parts) == 1:
            next(self._blocks, None)
        return len(parts) > 1


def _raising(damage: Damaged) -> Iterator[bytes]:
    raise damage
    yield b""
