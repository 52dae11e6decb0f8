"""Write a shard set for other readers: MosaicML's streaming (MDS) and litData (for its TokensLoader)."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.files import folder_aside, sync_folder
from data_pipeline.shards.foreign.litdata_write import LitDataTarget
from data_pipeline.shards.foreign.mds_write import MdsTarget
from data_pipeline.shards.foreign.target import Batch, Target
from data_pipeline.shards.reader import ShardSet

EXPORTS = ("mds", "litdata")
FILE_BYTES = 1 << 26
"""Bytes in a file, about."""


def send_out(
    shards: ShardSet,
    out: str | Path,
    format: str,
    advance: Callable[[int], object] = lambda size: None,
    file_bytes: int = FILE_BYTES,
) -> int:
    """Write every document with tokens as a sample into the folder `out`, which appears when it is whole.

    Returns the number of samples. DataError when `out` is there already, or a document is too long for the format.
    """
    out = Path(out)
    if format not in EXPORTS:
        raise DataError(f"{format!r} is no format to export to; there are: {', '.join(EXPORTS)}.")
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise DataError(f"{out} is there already; give another place.")
    dtype = shards.manifest.dtype
    target: Target = MdsTarget(dtype) if format == "mds" else LitDataTarget(dtype, shards.digest)
    samples = 0
    try:
        with folder_aside(out) as aside:
            made = aside / "made"
            made.mkdir()
            for number, batch in enumerate(_batches(shards, file_bytes)):
                _write(made, *target.encode(batch, number))
                samples += len(batch.ends)
                advance(batch.ids.nbytes)
            _write(made, "index.json", [json.dumps(target.index()).encode()])
            if out.exists():
                out.rmdir()
            made.rename(out)
            sync_folder(out.parent)
    except OSError as error:
        raise DataError(f"cannot write {out}: {error.strerror or error}.") from error
    return samples


def _write(folder: Path, name: str, pieces: list[bytes]) -> None:
    with (folder / name).open("wb") as file:
        file.writelines(pieces)
        file.flush()
        os.fsync(file.fileno())


def _batches(shards: ShardSet, file_bytes: int) -> Iterator[Batch]:
    """Yield the documents in order, as many at once as fit into a file; those without tokens are left out."""
    most = file_bytes // np.dtype(shards.manifest.dtype).itemsize
    start, waiting = 0, np.empty(0, np.int64)
    for ends in _ends(shards):
        waiting = np.concatenate([waiting, ends])
        while len(waiting) and waiting[-1] - start > most:
            count = max(1, int(np.searchsorted(waiting, start + most, side="right")))
            yield Batch(shards.read(start, int(waiting[count - 1]) - start), waiting[:count] - start)
            start, waiting = int(waiting[count - 1]), waiting[count:]
    if len(waiting):
        yield Batch(shards.read(start, int(waiting[-1]) - start), waiting - start)


def _ends(shards: ShardSet) -> Iterator[np.ndarray]:
    """Yield where documents with tokens end, in the set's tokens, a million at a time."""
    before = last = 0
    for number, record in enumerate(shards.manifest.shards):
        boundaries = shards.boundaries(number)
        wrong = boundaries.problem(record.num_tokens)
        if wrong:
            raise DataError(wrong)
        for _, ends in boundaries.in_blocks():
            yield np.unique(ends[ends + before > last] + before)
            last = before + int(ends[-1])
        before += record.num_tokens
