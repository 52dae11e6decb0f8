"""A file as it was before it was compressed: mapped, or unpacked onto the disk first; never whole in memory."""

import bz2
import gzip
import hashlib
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, cast

import zstandard

from data_pipeline.errors import DataError
from data_pipeline.shards.boundaries import map_file

_PIECE = 1 << 20
_WINDOW = 1 << 27
"""Bytes that unpacking may look back, at most."""


def unpacked(path: Path, compression: str | None, most: int) -> memoryview:
    """Return the bytes of a file, uncompressed. DataError when it is damaged or longer than `most` bytes."""
    if compression is None:
        return memoryview(map_file(path))
    opener = _OPENERS.get(compression.split(":")[0])
    if opener is None:
        raise DataError(f"{path} is compressed by {compression!r}; known: {', '.join(_OPENERS)}. Unpack it first.")
    try:
        with path.open("rb") as file, tempfile.NamedTemporaryFile(prefix="unpacked-") as out:
            _copy(opener(file), cast(IO[bytes], out), most)
            out.flush()
            return memoryview(map_file(Path(out.name)))
    except (OSError, EOFError, zlib.error, zstandard.ZstdError, ValueError) as error:
        raise DataError(f"cannot unpack {path}: {error}; bring it back.") from error


def unpack_zstd(data: memoryview, most: int) -> bytes:
    """Unpack a few bytes in memory. ValueError when they are damaged or make more than `most`."""
    try:
        # Read as a stream: the size that a frame claims to have is not to be believed.
        raw = zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(data).read(most + 1)
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    if len(raw) > most:
        raise ValueError(f"they make more than {most:,} bytes")
    return raw


def _zstd(file: IO[bytes]) -> IO[bytes]:
    reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW).stream_reader(file, read_across_frames=True)
    return cast(IO[bytes], reader)


_OPENERS: dict[str, Callable[[IO[bytes]], IO[bytes]]] = {
    "zstd": _zstd,
    "gz": lambda file: cast(IO[bytes], gzip.GzipFile(fileobj=file)),
    "bz2": lambda file: cast(IO[bytes], bz2.BZ2File(file)),
}


def _copy(source: IO[bytes], out: IO[bytes], most: int) -> None:
    size = 0
    while data := source.read(_PIECE):
        size += len(data)
        if size > most:
            raise ValueError(f"it unpacks to more than the {most:,} bytes that it should have")
        out.write(data)


def check_hashes(data: memoryview, hashes: dict[str, str], path: Path) -> None:
    """Compare with the digests that were written beside the file, those of them that are known here."""
    for name, said in hashes.items():
        if name in hashlib.algorithms_guaranteed and not name.startswith("shake"):
            digest = hashlib.new(name, data, usedforsecurity=False).hexdigest()
            if digest != said:
                raise DataError(
                    f"{path} changed after it was written: its {name} is {digest[:16]}..., not {said[:16]}..."
                )
