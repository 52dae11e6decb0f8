"""A token file of other software: its type of ids and its boundaries, told, proven or given, never guessed.

Megatron's .idx tells both. datatrove's .ds.index has the boundaries, .ds.metadata the bytes of an id; Dolma's .csv.gz
has boundaries and origins. Where boundaries are there, the file's size proves the bytes of an id; where neither says
it, the user must.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.shards.boundaries import Boundaries, Ends
from data_pipeline.shards.foreign.dolma import read_table
from data_pipeline.shards.megatron import Index

_CHUNK = 1 << 24
_LONGEST_METADATA = 1 << 16


@dataclass
class TokenFileFound:
    """What is known of a token file."""

    bin: Path
    size: int
    """Bytes."""
    boundaries: Boundaries | None = None
    """None: nothing says them."""
    documents: Path | None = None
    """Provenance, where there is any."""
    told: str | None = None
    """The type of an id that a file beside it tells."""
    told_by: Path | None = None


def look_at(format: str, path: Path, aside: Path, name: str, sources: dict[str, int]) -> TokenFileFound:
    """Look at what stands beside a token file; what has to be written goes to `aside` under `name`.

    `sources` numbers the source files, and is extended. DataError when something beside it is damaged.
    """
    try:
        found = TokenFileFound(path, path.stat().st_size)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from error
    if format == "megatron":
        index = Index(path.with_suffix(".idx"))
        found.boundaries, found.told, found.told_by = index, index.dtype, index.path
        ours = path.with_name(path.name.removesuffix("_text_document.bin") + "_documents.npy")
        found.documents = ours if path.parent == aside else None
    elif format == "datatrove":
        _datatrove(found)
    elif format == "dolma":
        _refuse_header(path)
        table = path.with_suffix(".csv.gz")
        if table.exists():
            ends, found.documents = aside / f"{name}_documents.index", aside / f"{name}_documents.npy"
            read_table(table, ends, found.documents, sources)
            found.boundaries = Ends(ends)
    return found


def dtype_of(found: TokenFileFound, given: str | None) -> tuple[str, bool]:
    """Return the type of an id, and whether that is certain. DataError when nothing says it, or two say different."""
    proven = _proven(found)
    if found.told is not None and given is not None and width(found.told) != width(given):
        raise DataError(f"{found.told_by} says that {found.bin} holds {found.told}, --dtype says {given}; drop it.")
    dtype = given or found.told or (f"uint{8 * proven}" if proven else None)
    if dtype is None:
        raise DataError(
            f"nothing says of which type the ids in {found.bin} are, and a guess from its size would misread half of "
            "all files: give --dtype (uint16 for most vocabularies below 65,536 words, else uint32)."
        )
    if proven is not None and proven != width(dtype):
        raise DataError(
            f"{found.bin} has {found.size:,} bytes for the {_num_tokens(found):,} tokens of its documents, "
            f"{proven} bytes each: they are not {dtype}."
        )
    if found.size % width(dtype):
        raise DataError(f"{found.bin} has {found.size:,} bytes, not a multiple of {width(dtype)}: not {dtype}.")
    return dtype, found.told is not None or proven is not None


def write_ends(found: TokenFileFound, dtype: str, eos_id: int, path: Path) -> Boundaries:
    """Write the boundaries of a file that has none: a document ends after each end-of-document token and at the end."""
    item = np.dtype(dtype).newbyteorder("<")
    start = last = 0
    with found.bin.open("rb") as file, path.open("wb") as out:
        while data := file.read(_CHUNK):
            ids = np.frombuffer(data, item)
            ends = np.flatnonzero(ids == eos_id) + (start + 1)
            out.write(ends.astype("<u8").tobytes())
            start += len(ids)
            last = int(ends[-1]) if len(ends) else last
        if last < start:
            out.write(np.array([start], "<u8").tobytes())
    return Ends(path)


def _datatrove(found: TokenFileFound) -> None:
    index, metadata = found.bin.with_name(found.bin.name + ".index"), found.bin.with_name(found.bin.name + ".metadata")
    if index.exists():
        found.boundaries = Ends(index)
    if metadata.exists():
        found.told, found.told_by = f"uint{8 * _token_size(metadata, found.size)}", metadata


def _token_size(path: Path, size: int) -> int:
    """Bytes of an id, from the lines `TOKENIZER|BYTES` and `TOKENS` of a .ds.metadata."""
    try:
        with path.open("rb") as file:
            lines = file.read(_LONGEST_METADATA).decode().split("\n")
        item, tokens = int(lines[0].rpartition("|")[2]), int(lines[1])
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{path} is not datatrove's metadata (NAME|BYTES, then the tokens): {error}.") from error
    if item not in (2, 4) or item * tokens != size:
        raise DataError(
            f"{path} says {tokens:,} tokens of {item} bytes, the file beside it has {size:,} bytes: one of them was "
            "cut short or replaced."
        )
    return item


def _refuse_header(path: Path) -> None:
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            raise DataError(f"{path} is a NumPy file with a header; Dolma's token files are raw ids without one.")


def _proven(found: TokenFileFound) -> int | None:
    """Bytes of an id, as the size and the boundaries prove it. DataError when they fit no type."""
    if found.boundaries is None:
        return None
    tokens = _num_tokens(found)
    item = found.size // tokens if tokens else 0
    if item not in (1, 2, 4, 8) or item * tokens != found.size:
        raise DataError(
            f"{found.bin} has {found.size:,} bytes, {found.boundaries.path} speaks of {tokens:,} tokens: one of them "
            "was cut short or replaced."
        )
    return item


def _num_tokens(found: TokenFileFound) -> int:
    boundaries = found.boundaries
    return boundaries.span(boundaries.num_documents - 1)[1] if boundaries and boundaries.num_documents else 0


def width(dtype: str) -> int:
    """Bytes of an id."""
    return np.dtype(dtype).itemsize
