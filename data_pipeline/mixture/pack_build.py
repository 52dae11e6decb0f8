"""Make the plan of a packed shard set, once.

It is a folder beside the set, named by the sequence length and by the digest of the tokens, or one in the user's cache
where nothing can be written there. Removing it costs the time to make it again, nothing else.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.files import Busy, folder_aside
from data_pipeline.mixture.pack_plan import BLOCK, DESCRIPTION, ROWS, WINDOW, Counts, OpenPlan, PackPlan
from data_pipeline.mixture.packing import checks, cut, pack
from data_pipeline.progress import progress
from data_pipeline.shards import ShardSet

DOCUMENTS_PER_BLOCK = 2**18
"""Documents packed at once: they bound the memory, and only the last windows of each block are far from full."""
_BYTES_PER_LENGTH = 4


def open_plan(shards: ShardSet, seq_len: int) -> OpenPlan:
    """Open the plan of a shard set, making it first where there is none; other processes wait for the one that does.

    DataError when it can be written neither beside the set nor in the user's cache folder.
    """
    if plan := find_plan(shards, seq_len):
        return plan
    problems = []
    for place in _places(shards, seq_len):
        try:
            _make(place, shards, seq_len)
            return OpenPlan(place, shards, seq_len)
        except OSError as error:
            problems.append(f"{place.parent} ({error.strerror or error})")
    raise DataError(f"cannot write the packing plan of {shards.prefix} in {' or in '.join(problems)}.")


def find_plan(shards: ShardSet, seq_len: int) -> OpenPlan | None:
    """Open the plan of a shard set if it was made before."""
    for place in _places(shards, seq_len):
        if (place / DESCRIPTION).exists():
            return OpenPlan(place, shards, seq_len)
    return None


def _places(shards: ShardSet, seq_len: int) -> list[Path]:
    """Where the plan may lie, the first choice first."""
    name = f"{shards.prefix.name}.packed-{seq_len}-{shards.digest[:16]}"
    return [shards.prefix.parent / name, _cache_folder() / name]


def contiguous_cuts(starts: np.ndarray, lengths: np.ndarray, seq_len: int, num_windows: int) -> int:
    """Count the documents, by the places of their first tokens and their lengths, that no contiguous window has whole.

    Window w has the places w * seq_len to (w + 1) * seq_len.
    """
    last = starts + lengths - 1
    return int(np.count_nonzero(last > np.minimum(starts // seq_len + 1, num_windows) * seq_len))


def _cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "megamodel"


def _make(target: Path, shards: ShardSet, seq_len: int) -> None:
    """Make the plan in a hidden folder and rename it; while another process makes it, wait."""
    while not (target / DESCRIPTION).exists():
        with contextlib.suppress(Busy), folder_aside(target) as aside:
            if not (target / DESCRIPTION).exists():
                (aside / "plan").mkdir()
                _write(aside / "plan", shards, seq_len)
                (aside / "plan").rename(target)
            return
        time.sleep(0.1)


def _write(folder: Path, shards: ShardSet, seq_len: int) -> None:
    with contextlib.ExitStack() as stack:
        files: dict[str, BinaryIO] = {name: stack.enter_context((folder / f"{name}.bin").open("wb")) for name in ROWS}
        maker = _Maker(files, shards, seq_len)
        advance = stack.enter_context(progress(f"packing {shards.prefix}", shards.num_documents * _BYTES_PER_LENGTH))
        for lengths in _blocks(shards):
            maker.add(lengths)
            advance(len(lengths) * _BYTES_PER_LENGTH)
        files[DESCRIPTION] = stack.enter_context((folder / DESCRIPTION).open("wb"))
        files[DESCRIPTION].write((maker.plan().model_dump_json(indent=1) + "\n").encode())
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())


def _blocks(shards: ShardSet) -> Iterator[np.ndarray]:
    """Yield the lengths of all documents, int64 [DOCUMENTS_PER_BLOCK] at a time, wherever shards end."""
    waiting = np.empty(0, np.int64)
    for lengths in _lengths(shards):
        while len(lengths):
            taken = DOCUMENTS_PER_BLOCK - len(waiting)
            waiting, lengths = np.concatenate([waiting, lengths[:taken]]), lengths[taken:]
            if len(waiting) == DOCUMENTS_PER_BLOCK:
                yield waiting
                waiting = waiting[:0]
    if len(waiting):
        yield waiting


def _lengths(shards: ShardSet) -> Iterator[np.ndarray]:
    """Yield the lengths of the documents, int64, some at a time. DataError when they are not those of the tokens."""
    for shard, record in enumerate(shards.manifest.shards):
        before = 0
        for _, ends in shards.boundaries(shard).in_blocks():
            lengths = np.diff(ends, prepend=before)
            if lengths.min() < 0:
                break
            yield lengths
            before = int(ends[-1])
        if before != record.num_tokens:
            raise _damaged(shards, shard)


def _damaged(shards: ShardSet, shard: int) -> DataError:
    path = shards.prefix.parent / shards.manifest.shards[shard].idx.name
    return DataError(
        f"{path} is damaged: its documents do not end where the tokens end; "
        f"`megamodel data verify {shards.prefix}` tells more."
    )


class _Maker:
    """Packs block after block, and counts."""

    def __init__(self, files: dict[str, BinaryIO], shards: ShardSet, seq_len: int) -> None:
        self._files, self._shards, self._seq_len = files, shards, seq_len
        self._rows = dict.fromkeys(ROWS, 0)
        self._tokens = self._targets = self._too_long = self._cut_contiguous = 0
        self._contiguous_windows = max(0, (shards.num_tokens - 1) // seq_len)

    def add(self, lengths: np.ndarray) -> None:
        """Pack the documents that come next."""
        pieces, counts = pack(lengths, self._tokens, self._seq_len)
        windows = np.empty(len(counts), WINDOW)
        windows["end"], windows["check"] = self._rows["pieces"] + np.cumsum(counts), checks(pieces, counts)
        self._count(lengths, pieces)
        block = np.array([(self._tokens, self._rows["windows"] + len(windows))], BLOCK)
        for name, rows in {"pieces": pieces, "windows": windows, "blocks": block}.items():
            self._files[name].write(rows.tobytes())
            self._rows[name] += len(rows)

    def plan(self) -> PackPlan:
        """Describe what was made."""
        contiguous = self._contiguous_windows
        return PackPlan(
            seq_len=self._seq_len,
            content_sha256=self._shards.digest,
            documents=self._shards.num_documents,
            too_long_documents=self._too_long,
            best_fit=Counts(windows=self._rows["windows"], targets=self._targets, cut_documents=self._too_long),
            contiguous=Counts(
                windows=contiguous, targets=contiguous * self._seq_len, cut_documents=self._cut_contiguous
            ),
            rows=self._rows,
        )

    def _count(self, lengths: np.ndarray, pieces: np.ndarray) -> None:
        starts = self._tokens + np.cumsum(lengths) - lengths
        self._cut_contiguous += contiguous_cuts(starts, lengths, self._seq_len, self._contiguous_windows)
        self._too_long += int(np.count_nonzero(cut(lengths, self._seq_len)[0]))
        self._targets += int(pieces["length"].sum(dtype=np.int64)) - len(pieces)
        self._tokens += int(lengths.sum())
