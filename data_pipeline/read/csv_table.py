"""Tables of text, with a row of names first: .csv with commas, .tsv with tabs; quoted fields may hold line ends."""

import csv
import io
from collections import deque
from collections.abc import Iterator

from data_pipeline.read.document import Broken, Document, Place, no_field
from data_pipeline.read.input import LIMIT, Damaged, Input

SUFFIXES = (".csv",)
TAB_SUFFIXES = (".tsv",)

_LONGEST = LIMIT // 4
"""Characters of a row, at most: the csv module holds four bytes for each."""
_AGAIN = 1 << 20
"""Characters of a broken row, at most, whose lines after the first are tried again as rows."""


def read(file: Input, start: Place, end: int | None) -> Iterator[Document | Broken]:
    """Yield the rows from number `start.position` on, separated by commas."""
    return _read(file, start.position, ",")


def read_tabs(file: Input, start: Place, end: int | None) -> Iterator[Document | Broken]:
    """Yield the rows from number `start.position` on, separated by tabs."""
    return _read(file, start.position, "\t")


def _read(file: Input, start: int, delimiter: str) -> Iterator[Document | Broken]:
    """A row of more or fewer fields than the first, or with a quote out of place, is broken; blank rows are none."""
    position = 0
    with file.uncompressed() as stream:
        lines = _Lines(io.TextIOWrapper(stream, file.encoding or "utf-8", "surrogateescape", newline=""))
        try:
            rows = _rows(lines, delimiter)
            names = next(rows, None)
            if names is None:
                return
            if isinstance(names, str) or file.text_field not in names:
                yield file.broken(0, 0, f"the row of names: {_no_names(names, file.text_field)}")
                return
            for row in rows:
                if position >= start:
                    yield _item(file, names, row, position, lines)
                position += 1
        except UnicodeDecodeError as error:
            yield file.broken(position, 0, f"line {lines.number + 1}: {error}; say the file's `encoding`")
        except Damaged as damage:
            yield file.broken(position, 0, str(damage))


def _no_names(names: list[str] | str, text_field: str) -> str:
    """Why a first row does not say which column is the text."""
    return names if isinstance(names, str) else no_field(text_field, [ascii(name)[1:-1] for name in names])


def _item(file: Input, names: list[str], row: list[str] | str, position: int, lines: "_Lines") -> Document | Broken:
    if isinstance(row, str):
        problem = row
    else:
        record = {name: row[names.index(name)] for name in (file.id_field, file.text_field) if name in names}
        if all(map(_is_text, record.values())):
            return file.document(record, position)
        problem = f"not {(file.encoding or 'utf-8').upper()}; say the file's `encoding`"
    excerpt = lines.beginning.encode(errors="surrogateescape")
    return file.broken(position, 0, f"line {lines.number + 1}: {problem}", excerpt)


def _is_text(field: str) -> bool:
    """False when bytes that are no text were found in it."""
    try:
        field.isascii() or field.encode()
    except UnicodeEncodeError:
        return False
    return True


def _rows(lines: "_Lines", delimiter: str) -> Iterator[list[str] | str]:
    """Yield the fields of each row, or what is wrong with it."""
    csv.field_size_limit(_LONGEST)
    reader, width = csv.reader(lines, delimiter=delimiter, strict=True), 0
    while True:
        lines.begin_row()
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            problem = f"not a row of a table ({error})"
        else:
            if not "".join(row[:2]).strip() and len(row) < 2:
                continue
            width = width or len(row)
            problem = "" if len(row) == width else f"{len(row)} fields, where the first row has {width}"
        if problem:
            lines.try_again()
        yield problem or row


class _Lines:
    """Lines for csv.reader; those of the row that is being read are kept, to begin again behind the first of them."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self.number = 0
        """Lines before the row."""
        self._text = text
        self._row: list[str] = []
        self._count = self._size = 0
        self._again: deque[str] = deque()

    @property
    def beginning(self) -> str:
        """How the row begins."""
        return self._row[0][:200] if self._row else ""

    def begin_row(self) -> None:
        """The next line is the first of a row."""
        self.number += self._count
        self._row = []
        self._count = self._size = 0

    def try_again(self) -> None:
        """The row is broken: what was taken for its further lines may be rows."""
        if self._size <= _AGAIN:
            self._again.extendleft(reversed(self._row[1:]))
            self._count = 1

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        """The next line. csv.Error when the row becomes too long; the rest of that line is passed over."""
        line = self._again.popleft() if self._again else self._text.readline(_LONGEST - self._size + 1)
        if not line:
            raise StopIteration
        if self.number + self._count == 0:
            line = line.removeprefix("\ufeff")
        self._count += 1
        self._size += len(line)
        if self._size <= _AGAIN or not self._row:
            self._row.append(line)
        if self._size > _LONGEST:
            while line and not line.endswith(("\n", "\r")):
                line = self._text.readline(_AGAIN)
            raise csv.Error(f"longer than {_LONGEST >> 20} Mi characters")
        return line
