"""JSON Lines, plain or compressed: one object a line."""

import codecs
from collections.abc import Iterator, Sequence

from data_pipeline.read.document import Broken, Document, Place
from data_pipeline.read.input import Input
from data_pipeline.read.json_value import parse
from data_pipeline.read.lines import BadLine, batches

SUFFIXES = (".jsonl", ".ndjson")


def read(file: Input, start: Place, end: int | None) -> Iterator[Document | Broken]:
    """Yield the records from `start` on, of a plain file those that start before byte `end`; blank lines are none."""
    position = start.position
    for offset, lines in batches(file, start.offset, end):
        for line in lines:
            try:
                item = file.document(parse(line), position, offset, line)
            except ValueError as error:
                found = _unreadable(file, line, position, offset, error)
                if found is None:
                    offset += len(line) + 1
                    continue
                item = found
            yield item
            position += 1
            offset += len(line) + 1


def identities(file: Input, places: Sequence[Place]) -> Iterator[tuple[int, str]]:
    """Yield (position, identity) of the records at the places, in ascending order."""
    for place in places:
        for item in read(file, place, None):
            if isinstance(item, Document):
                yield place.position, item.identity
            break


def _unreadable(file: Input, line: bytes, position: int, offset: int, error: ValueError) -> Document | Broken | None:
    """What a line without a value is: nothing, the first one behind a byte order mark, or a broken record."""
    if isinstance(line, BadLine):
        return file.broken(position, offset, line.problem, line)
    if offset == 0 and line.startswith(codecs.BOM_UTF8):
        line = line.removeprefix(codecs.BOM_UTF8)
        try:
            return file.document(parse(line), position, offset, line)
        except ValueError as without_mark:
            error = without_mark
    return file.broken(position, offset, str(error), line) if line.strip() else None
