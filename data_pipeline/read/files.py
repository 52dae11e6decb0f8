"""Which files make up a corpus, and which reader takes which."""

import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType

from data_pipeline.errors import DataError
from data_pipeline.read import jsonl, parquet, txt
from data_pipeline.read.document import Document

FORMATS: tuple[ModuleType, ...] = (jsonl, txt, parquet)
SUFFIXES = tuple(suffix for module in FORMATS for suffix in module.SUFFIXES)


def expand(patterns: Sequence[str | Path]) -> list[Path]:
    """Turn files, globs and folders (searched to any depth) into a list of files, sorted and without repeats.

    DataError when a pattern matches nothing, or names a file of a format that nobody here reads.
    """
    found: set[Path] = set()
    for pattern in patterns:
        found.update(_expand_one(str(pattern)))
    return sorted(found)


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


def read_record(source: str, position: int, offset: int, text_field: str = "text", id_field: str = "id") -> Document:
    """Read one record again by its place. DataError when the file is gone or has become shorter."""
    path = Path(source)
    try:
        if path.name.endswith(jsonl.SUFFIXES):
            return jsonl.read_at(path, offset, position, text_field, id_field)
        for document in read_documents([path], text_field, id_field):
            if document.position == position:
                return document
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}.") from error
    raise DataError(f"{path} has no record {position} any more; it changed since the shards were written.")


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
