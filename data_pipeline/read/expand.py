"""Which files make up a source."""

import errno
import glob
import heapq
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.read import dataset
from data_pipeline.read.formats import KNOWN, find_format, format_of
from data_pipeline.read.location import as_local, asking, filesystem_of, is_url, shown
from data_pipeline.read.settings import DatasetSource, FilesSource, Source

_MAGIC = frozenset("*?[")


def expand(source: Source | Sequence[str | Path]) -> list[str]:
    """Turn a source, or files, globs, folders (searched to any depth) and URLs, into a list of files, sorted.

    A file that is named in several ways (relative, absolute, through a link) is in it once, as it was named first.
    DataError when a pattern matches nothing, names a file of a format that nobody here reads, or a file whose name is
    not UTF-8.
    """
    if isinstance(source, FilesSource):
        return _files(source.files, source)
    if isinstance(source, DatasetSource):
        return dataset.expand(source, lambda name: find_format(name) is not None)
    return _files([str(pattern) for pattern in source], None)


def _files(patterns: Iterable[str], source: FilesSource | None) -> list[str]:
    found: dict[str, str] = {}
    for pattern in map(as_local, patterns):
        names = _remote(pattern, source) if is_url(pattern) else _local(pattern, source)
        for name in sorted(names):
            _check_name(name)
            found.setdefault(name if is_url(name) else os.path.realpath(name), name)
    return sorted(found.values(), key=lambda name: (is_url(name), Path(name).parts))


def _check_name(name: str) -> None:
    """Names go into manifests, which are UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        readable = os.fsencode(name).decode(errors="backslashreplace")
        raise DataError(f"{readable}: the file's name is not UTF-8; rename it.") from error


def _local(pattern: str, source: FilesSource | None) -> list[str]:
    path = Path(pattern)
    if path.is_file():
        format_of(pattern, source)
        return [str(path)]
    if path.is_dir():
        return _readable(pattern, (str(file) for file, is_file in _below(path) if is_file), source)
    matches = [name for name in glob.glob(pattern, recursive=True) if Path(name).is_file()]  # noqa: PTH207
    if not matches:
        raise DataError(f"{pattern}: no such file, and nothing matches it as a glob (from {Path.cwd()}).")
    for match in matches:
        format_of(match, source)
    return [str(Path(match)) for match in matches]


def passed_over(source: Source) -> Counter[str]:
    """How many files in the folders of a source no reader takes, by what their names end in or what they are."""
    folders = folders_of(source) if isinstance(source, FilesSource) else []
    found = {entry for folder in folders for entry in _below(folder)}
    return Counter(
        (file.suffix or file.name) if is_file else "links to nothing or no regular files"
        for file, is_file in found
        if not (is_file and find_format(str(file), source))
    )


def folders_of(source: Source) -> list[Path]:
    """Those folders of this machine that a source names."""
    places = map(as_local, source.files if isinstance(source, FilesSource) else [source.dataset])
    return [Path(place) for place in places if not is_url(place) and Path(place).is_dir()]


def _below(top: Path) -> Iterator[tuple[Path, bool]]:
    """All in a folder, to any depth and behind links, and whether it is a file: each folder once, by its first name.

    DataError where it cannot be looked into.
    """
    waiting, seen = [os.path.join(top, "")], set[tuple[int, int]]()  # noqa: PTH118 - with a slash, folders sort as their files do
    while waiting:
        folder = heapq.heappop(waiting)
        try:
            here = os.stat(folder)  # noqa: PTH116
            if (here.st_dev, here.st_ino) in seen:  # links lead back, or in more ways than can be counted
                continue
            seen.add((here.st_dev, here.st_ino))
            with os.scandir(folder) as entries:
                found = [(entry.path, *_kind(entry)) for entry in entries]
        except OSError as error:
            raise DataError(f"cannot look into the folder {Path(folder)}: {error.strerror}.") from error
        for path, is_folder, is_file in found:
            if is_folder:
                heapq.heappush(waiting, f"{path}/")
            else:
                yield Path(path), is_file


def _kind(entry: "os.DirEntry[str]") -> tuple[bool, bool]:
    """Is it a folder, is it a file; neither is a link that leads to nothing, or to itself."""
    try:
        return entry.is_dir(), entry.is_file()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False, False


def _readable(folder: str, names: Iterable[str], source: FilesSource | None) -> list[str]:
    """Those files of a folder that a reader takes."""
    files = [name for name in names if find_format(name, source)]
    if not files:
        raise DataError(f"{shown(folder)} holds no file that can be read; known: {KNOWN}.")
    return files


def _remote(url: str, source: FilesSource | None) -> list[str]:
    filesystem, path = filesystem_of(url)
    if _MAGIC & set(path) and "::" not in url:
        matches = asking(url, filesystem.glob, path)
        if not matches:
            raise DataError(f"{shown(url)}: nothing matches it.")
        names = [_as_url(url, path, match, filesystem) for match in matches]
    elif asking(url, filesystem.isdir, path):
        found = asking(url, filesystem.find, path)
        return _readable(url, (_as_url(url, path, file, filesystem) for file in found), source)
    else:
        names = [url]
        if not asking(url, filesystem.exists, path):
            raise DataError(f"{shown(url)}: no such file.")
    for name in names:
        format_of(name, source)
    return names


def _as_url(url: str, path: str, match: str, filesystem: object) -> str:
    """The URL of what was found: with the host and the user of the URL that was asked for, which paths lack."""
    url, path = url.rstrip("/"), path.rstrip("/")
    if url.endswith(path):
        return url[: len(url) - len(path)] + match
    return str(filesystem.unstrip_protocol(match))  # type: ignore[attr-defined]
