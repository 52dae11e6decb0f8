"""Which files make up a corpus, and which reader takes which."""

import contextlib
import glob
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

import pyarrow as pa

from data_pipeline.errors import DataError
from data_pipeline.read import jsonl, parquet, txt
from data_pipeline.read.document import Document

FORMATS: tuple[ModuleType, ...] = (jsonl, txt, parquet)
SUFFIXES = tuple(suffix for module in FORMATS for suffix in module.SUFFIXES)


def expand(patterns: Sequence[str | Path]) -> list[Path]:
    """Turn files, globs and folders (searched to any depth) into a list of files, sorted. A file that is named in
    several ways (relative, absolute, through a link) is in it once, as it was named first.

    DataError when a pattern matches nothing, names a file of a format that nobody here reads, or a file
    whose name is not UTF-8.
    """
    found: dict[Path, Path] = {}
    for pattern in patterns:
        for path in sorted(_expand_one(str(pattern))):
            _check_name(path)
            found.setdefault(path.resolve(), path)
    return sorted(found.values())


def read_documents(
    paths: Sequence[Path],
    text_field: str = "text",
    id_field: str = "id",
    advance: Callable[[int], object] = lambda consumed: None,
) -> Iterator[Document]:
    """Yield every document of the files, in order. DataError names the file and the line of a bad record.

    `advance` is called with the bytes of disk consumed since its last call, for a progress bar.
    """
    for path in paths:
        try:
            yield from _format_of(path).read(path, text_field, id_field, advance)
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}.") from error


def read_identities(
    source: str, places: Iterable[tuple[int, int]], text_field: str = "text", id_field: str = "id"
) -> dict[int, str]:
    """Read the identities of some records again, given (position, offset) of each, in one pass over the file.

    Those that cannot be read any more are left out: the file is gone, shorter or damaged since.
    """
    path, found = Path(source), {}
    with contextlib.suppress(OSError, EOFError, ValueError, OverflowError, zlib.error, pa.ArrowException, DataError):
        for position, identity in _format_of(path).identities(path, sorted(places), text_field, id_field):
            found[position] = identity
    return found


def _check_name(path: Path) -> None:
    """Names go into manifests, which are UTF-8."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        shown = os.fsencode(path).decode(errors="backslashreplace")
        raise DataError(f"{shown}: the file's name is not UTF-8; rename it.") from error


def _expand_one(pattern: str) -> list[Path]:
    path = Path(pattern)
    if path.is_file():
        _format_of(path)
        return [path]
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file() and file.name.endswith(SUFFIXES)]
        if not files:
            raise DataError(f"{path} holds no file that can be read; known: {', '.join(SUFFIXES)}.")
        return files
    matches = [Path(name) for name in glob.glob(pattern, recursive=True) if Path(name).is_file()]  # noqa: PTH207
    if not matches:
        raise DataError(f"{pattern}: no such file, and nothing matches it as a glob (from {Path.cwd()}).")
    for match in matches:
        _format_of(match)
    return matches


def _format_of(path: Path) -> ModuleType:
    for module in FORMATS:
        if path.name.endswith(module.SUFFIXES):
            return module
    raise DataError(f"{path}: no reader for this kind of file; known: {', '.join(SUFFIXES)}.")
