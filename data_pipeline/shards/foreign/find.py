"""Which files of which format a path, a prefix or a folder stands for."""

import glob
import re
from pathlib import Path
from typing import NamedTuple

from data_pipeline.errors import DataError

FORMATS = ("megatron", "datatrove", "dolma", "mds", "litdata")
_SUFFIXES = {"megatron": ".bin", "datatrove": ".ds", "dolma": ".npy"}
"""Of the token files of the formats that are used in place."""
_BESIDE = (".bin", ".idx", ".ds.index", ".ds.metadata", ".ds", ".npy", ".csv.gz")
"""What may stand after a prefix, the longest that fits first."""
_PROVENANCE = re.compile(r"_\d{5}_documents\.npy$")
"""What shard sets of ours have beside their tokens: a NumPy file with a header."""
_INDEX = "index.json"


class Found(NamedTuple):
    """Token files, or the folder of a format with an index.json."""

    format: str
    """One of FORMATS."""
    prefix: Path
    """The name they have in common: where a manifest goes when no other place is given."""
    files: list[Path]
    """The token files, sorted; the folder's index.json for mds and litdata."""

    @property
    def size(self) -> int:
        """Bytes to read, about."""
        files = self.files
        if self.format in ("mds", "litdata"):
            files = [path for path in self.files[0].parent.rglob("*") if path.is_file()]
        return sum(file.stat().st_size for file in files)


def find(source: str | Path, wanted: str | None = None) -> Found:
    """Find what `source` names: a file, a folder, or a prefix such as data/books for books_text_document.bin.

    `wanted` is the format, where files of several are there. DataError when there is nothing, or more than one format.
    """
    path = Path(source)
    if wanted is not None and wanted not in FORMATS:
        raise DataError(f"{wanted!r} is no format that can be imported; there are: {', '.join(FORMATS)}.")
    if path.name == _INDEX or (path / _INDEX).is_file():
        index = path if path.name == _INDEX else path / _INDEX
        return Found(_of_index(index, wanted), index.parent, [index])
    found = _by_format(_below(path), wanted) if path.is_dir() else {}
    prefix = path if found else _without_suffix(path)
    found = found or _by_format(_after_prefix(path), wanted)
    if not found:
        raise DataError(_nothing(path, wanted))
    if len(found) > 1:
        counts = ", ".join(f"{len(files)} of {name} (*{_SUFFIXES[name]})" for name, files in found.items())
        raise DataError(f"{source} has token files of several formats: {counts}; say which with --format.")
    ((name, files),) = found.items()
    return Found(name, prefix, files)


def _by_format(files: list[Path], wanted: str | None) -> dict[str, list[Path]]:
    """The token files among these, by their format."""
    formats = [name for name in _SUFFIXES if wanted in (None, name)]
    files = [file for file in files if not _PROVENANCE.search(file.name)]
    by_format = {name: sorted(file for file in files if file.name.endswith(_SUFFIXES[name])) for name in formats}
    return {name: files for name, files in by_format.items() if files}


def _below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _after_prefix(path: Path) -> list[Path]:
    """The files that a path names: itself, what stands beside it under another suffix, or what begins with it."""
    prefix = _without_suffix(path)
    exact = [Path(f"{prefix}{middle}{suffix}") for suffix in _SUFFIXES.values() for middle in ("", "_text_document")]
    if path.name != prefix.name and path.suffix in _SUFFIXES.values():
        exact = [path]
    there = [file for file in exact if file.is_file()]
    if there:
        return there
    pattern = glob.escape(prefix.name) + "_*"
    return [file for file in prefix.parent.glob(pattern) if file.is_file()] if prefix.parent.is_dir() else []


def _without_suffix(path: Path) -> Path:
    for suffix in _BESIDE:
        if path.name.endswith(suffix) and path.name != suffix:
            return path.with_name(path.name.removesuffix(suffix))
    return path


def _of_index(index: Path, wanted: str | None) -> str:
    """MDS lists shards, litData chunks; told by the first of the two words in the file."""
    if wanted is not None:
        return wanted
    try:
        text = index.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {index}: {error.strerror}.") from error
    places = {name: text.find(word) for name, word in (("mds", b'"shards"'), ("litdata", b'"chunks"'))}
    there = {name: place for name, place in places.items() if place >= 0}
    if not there:
        raise DataError(f"{index} lists neither shards (MDS) nor chunks (litData): it is damaged or something else.")
    return min(there, key=lambda name: there[name])


def _nothing(path: Path, wanted: str | None) -> str:
    looked = f"of the format {wanted}" if wanted else "of a format that can be imported"
    return (
        f"{path}: there are no token files {looked}. They are found by name: *.bin with *.idx (Megatron), *.ds "
        "(datatrove), *.npy (Dolma), a folder with index.json (MDS, litData)."
    )
