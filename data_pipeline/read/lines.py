"""A stream cut into lines, many at a time: Python's own loop over lines knows no limit to their length."""

from collections.abc import Iterator

from data_pipeline.read.input import BLOCK, LIMIT, Damaged, Input

_PLAIN_BLOCK = 1 << 20


class BadLine(bytes):
    """The beginning of a line that could not be read whole."""

    def __new__(cls, beginning: bytes, problem: str) -> "BadLine":
        """Keep the bytes and the reason."""
        line = super().__new__(cls, beginning)
        line.problem = problem
        return line

    problem: str
    """What is wrong with it."""


def batches(file: Input, start: int = 0, end: int | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """Yield (offset of the first, lines without their line ends) from byte `start` on, of a plain file up to `end`.

    A line longer than LIMIT, and what lies before a damaged place, come as a `BadLine`, the last of its list.
    """
    offset = here = start
    tail = _Tail()
    try:
        for block in blocks(file, start, end):
            here += len(block)
            *lines, rest = block.split(b"\n")
            if lines:
                tail.add(lines[0])
                yield offset, [tail.take()]
                yield here - len(block) + len(lines[0]) + 1, lines[1:]
                offset = here - len(rest)
            tail.add(rest)
    except Damaged as damage:
        yield offset, [BadLine(tail.take(), str(damage))]
    else:
        if tail.length:
            yield offset, [tail.take()]


def blocks(file: Input, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield the uncompressed bytes from `start` on, in pieces; `end` is for plain files only."""
    with file.uncompressed() as stream:
        size, here = BLOCK if file.compression else _PLAIN_BLOCK, 0
        if stream.seekable():
            here = stream.seek(start)
        while block := stream.read1(size if end is None else min(size, max(0, end - here))):
            here += len(block)
            if here > start:
                yield block[max(0, start - here + len(block)) :]


class _Tail:
    """The line that is not complete yet; of one that is too long, only the beginning is kept."""

    def __init__(self) -> None:
        self.length = 0
        self._parts: list[bytes] = []

    def add(self, piece: bytes) -> None:
        self.length += len(piece)
        self._parts.append(piece)
        if self.length > LIMIT:
            del self._parts[2:]

    def take(self) -> bytes:
        line = b"".join(self._parts)
        if self.length > LIMIT:
            line = BadLine(line[:200], f"the line is longer than {LIMIT >> 20} MiB")
        self.length, self._parts = 0, []
        return line


def whole(file: Input) -> bytes:
    """Read a file that is one record. ValueError when it is larger than LIMIT, Damaged when it is damaged."""
    parts, size = [], 0
    for block in blocks(file):
        size += len(block)
        if size > LIMIT:
            raise ValueError(f"the file is larger than {LIMIT >> 20} MiB, and it would be one document")
        parts.append(block)
    return b"".join(parts)
