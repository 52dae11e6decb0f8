"""The records of a file, whatever its format."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.read.document import BEGINNING, Broken, Document, Place
from data_pipeline.read.formats import format_of
from data_pipeline.read.input import Damaged, compression_of, input_of
from data_pipeline.read.lines import blocks
from data_pipeline.read.location import shown
from data_pipeline.read.rows import UNREADABLE
from data_pipeline.read.settings import FilesSource, Source


def read(
    path: str,
    source: Source,
    start: Place = BEGINNING,
    end: int | None = None,
    advance: Callable[[int], object] = lambda consumed: None,
) -> Iterator[Document | Broken]:
    """Yield the records of one file of a source, from `start` on; a plain file of lines ends before byte `end`.

    What cannot be read comes as a Broken, and the reading goes on; after damage that nothing can be read behind
    there is one for the rest. The same records come from any start. DataError when the file cannot be opened or its
    disk or network fails. `advance` is called with the bytes of disk consumed since its last call.
    """
    try:
        yield from format_of(path, source).read(input_of(path, source, advance), start, end)
    except OSError as error:
        raise DataError(f"cannot read {shown(path)}: {error.strerror or error}.") from error


def read_documents(
    paths: Sequence[str | Path],
    text_field: str = "text",
    id_field: str = "id",
    advance: Callable[[int], object] = lambda consumed: None,
) -> Iterator[Document]:
    """Yield every document of the files, in order. DataError names the file and the place of a bad record."""
    source = FilesSource(kind="files", files=["-"], text_field=text_field, id_field=id_field)
    for path in map(str, paths):
        for item in read(path, source, advance=advance):
            if isinstance(item, Broken):
                raise DataError(f"{_where(path, item, source)}: {item.reason}.")
            yield item


def read_identities(
    source: str, places: Iterable[tuple[int, int]], text_field: str = "text", id_field: str = "id"
) -> dict[int, str]:
    """Read the identities of some records again, given (position, offset) of each, in one pass over the file.

    Those that cannot be read any more are left out: the file is gone, shorter or damaged since.
    """
    settings = FilesSource(kind="files", files=["-"], text_field=text_field, id_field=id_field)
    found: dict[int, str] = {}
    with contextlib.suppress(OSError, DataError, *UNREADABLE):
        for position, identity in _identities(source, sorted(Place(*place) for place in places), settings):
            found[position] = identity
    return found


def _identities(path: str, places: Sequence[Place], source: Source) -> Iterator[tuple[int, str]]:
    format_ = format_of(path, source)
    if format_.identities and not compression_of(path):
        yield from format_.identities(input_of(path, source), places)
    elif places:
        wanted = {place.position for place in places}
        for item in read(path, source, places[0]):
            if isinstance(item, Document) and item.position in wanted:
                yield item.position, item.identity
            if item.position >= places[-1].position:
                break


def _where(path: str, broken: Broken, source: Source) -> str:
    """FILE:LINE of a broken line, FILE of anything else: its reason says the row."""
    if not format_of(path, source).can_be_cut:
        return broken.source
    line = 1
    with contextlib.suppress(Damaged):
        here = 0
        for block in blocks(input_of(path, source)):
            line += block.count(b"\n", 0, max(0, broken.offset - here))
            here += len(block)
    return f"{broken.source}:{line}"
