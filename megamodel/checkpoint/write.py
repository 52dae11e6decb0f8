"""Save a checkpoint from all ranks while training goes on.

Each rank copies its part, then a thread writes it into a folder set aside for this attempt, and a note of what it
wrote.
Rank 0 waits for all notes, proves that the chunks tile every tensor, writes the manifest and renames the folder.
The notes are files, so the threads need no collective, and a rank that dies leaves the folder uncommitted.
"""

import contextlib
import math
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, TypeAdapter
from torch import Tensor

from megamodel.checkpoint.folder import checkpoint_name, prune, sync_folder
from megamodel.checkpoint.manifest import MANIFEST, Chunk, FileEntry, Manifest, TensorEntry
from megamodel.checkpoint.tensor_file import write_tensor_file
from megamodel.errors import CheckpointError
from megamodel.parallel.shard import Holding


class _Note(BaseModel):
    """What one rank wrote: its file, and its chunks of each tensor."""

    name: str
    file: FileEntry
    chunks: dict[str, list[Chunk]]


class _Failure(BaseModel):
    """Why one rank could not write."""

    error: str


@dataclass(frozen=True)
class Saved:
    """A committed checkpoint: where, how large, how long from the call to the commit."""

    step: int
    path: Path
    bytes: int
    seconds: float
    removed: list[Path]


class CheckpointWriter:
    """Saves in the background, one checkpoint at a time.

    Args:
        folder: the run's checkpoints folder.
        rank, world_size: of all processes.
        attempt: a word unique to this start of the run, the same on every rank.
        keep, permanent_every_steps: see `prune`.
        optimizer, optimizer_start, model, data_order: recorded in the manifest. `optimizer_start` may be moved on
            between saves, by one for each step that makes no update.
        shapes: of every tensor that a checkpoint must hold, by key.
        on_saved: called on rank 0, in the writing thread, after each commit.
        timeout: seconds rank 0 waits for the other ranks' parts.
    """

    def __init__(
        self,
        folder: Path,
        *,
        rank: int,
        world_size: int,
        attempt: str,
        keep: int,
        permanent_every_steps: int | None,
        optimizer: str,
        optimizer_start: int = 0,
        model: dict[str, Any],
        data_order: dict[str, Any],
        shapes: Mapping[str, tuple[int, ...]],
        on_saved: Callable[[Saved], None],
        timeout: float = 1800.0,
    ) -> None:
        self.folder, self.rank, self.world_size, self.attempt = folder, rank, world_size, attempt
        self.keep, self.permanent_every_steps = keep, permanent_every_steps
        self.optimizer, self.optimizer_start = optimizer, optimizer_start
        self.model, self.data_order = model, data_order
        self.shapes, self.on_saved, self.timeout = shapes, on_saved, timeout
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def save(self, step: int, tensors: Mapping[str, Holding]) -> None:
        """Copy this rank's part of `tensors`, which are live, and write it in the background.

        Waits for the save before, raises its error. Nothing is gathered: the extra memory is one copy, in the machine's
        memory, of what this rank writes, from the call to the end of the writing. Of a sharded state that is the rank's
        shard; of a state that every rank has whole, 1/world_size of it; rank 0 adds the manifest.
        """
        self.wait()
        copies: dict[str, Tensor] = {}
        chunks: dict[str, list[Chunk]] = {}
        for name, holding in self._my_part(tensors).items():
            chunks[name] = []
            for number, (box, piece) in enumerate(holding.pieces):
                key = f"{name}#{number}" if number else name
                copies[key] = _copy(piece)
                chunks[name].append(Chunk(file=self._file_name, key=key, offset=box.offset, shape=box.shape))
        self._thread = threading.Thread(
            target=self._run, args=(step, self.optimizer_start, copies, chunks), name="checkpoint"
        )
        self._thread.start()

    def wait(self) -> None:
        """Block until the save in progress is over; CheckpointError when it failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self.check()

    def check(self) -> None:
        """Raise the error of a failed save, if there is one; never blocks."""
        if self._error is not None:
            error, self._error = self._error, None
            raise CheckpointError(f"rank {self.rank} could not save a checkpoint: {error}") from error

    @property
    def _file_name(self) -> str:
        return f"rank_{self.rank:05d}.safetensors"

    def _my_part(self, tensors: Mapping[str, Holding]) -> dict[str, Holding]:
        """The tensors this rank writes: its own parts, and its share, by size, of what every rank has whole."""
        load = [0] * self.world_size
        mine: dict[str, Holding] = {}
        for name, holding in tensors.items():
            if holding.written_by == "any":
                owner = load.index(min(load))
                load[owner] += math.prod(holding.shape)
                if owner == self.rank:
                    mine[name] = holding
            elif holding.written_by == "this" and holding.pieces:
                mine[name] = holding
        return mine

    def _run(
        self,
        step: int,
        optimizer_start: int,
        copies: dict[str, Tensor],
        chunks: dict[str, list[Chunk]],
    ) -> None:
        started = time.monotonic()
        aside = self.folder / f"{checkpoint_name(step)}.writing-{self.attempt}"
        try:
            aside.mkdir(parents=True, exist_ok=True)
            entry = write_tensor_file(aside / self._file_name, copies)
            self._leave(aside, _Note(name=self._file_name, file=entry, chunks=chunks))
            if self.rank == 0:
                self._commit(step, optimizer_start, aside, started)
        except OSError as error:
            self._fail(aside, CheckpointError(f"{error.filename or aside}: {error.strerror}. {_space(self.folder)}"))
        except Exception as error:  # it must reach the training loop, whatever it is
            self._fail(aside, error)

    def _leave(self, aside: Path, note: _Note | _Failure) -> None:
        _write_durably(aside / f"rank_{self.rank:05d}.json", note.model_dump_json())

    def _fail(self, aside: Path, error: Exception) -> None:
        """Free the space, tell rank 0, which waits for this rank's note, and keep the error for this rank's loop."""
        if self.rank == 0:
            shutil.rmtree(aside, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                (aside / self._file_name).unlink(missing_ok=True)
                self._leave(aside, _Failure(error=str(error)))
        self._error = error

    def _commit(self, step: int, optimizer_start: int, aside: Path, started: float) -> None:
        notes = self._collect(aside)
        tensors = {
            name: TensorEntry(shape=shape, dtype="F32", chunks=tuple(c for n in notes for c in n.chunks.get(name, ())))
            for name, shape in self.shapes.items()
        }
        files = {note.name: note.file for note in notes}
        manifest = Manifest(
            step=step,
            optimizer=self.optimizer,
            optimizer_start=optimizer_start,
            model=self.model,
            data_order=self.data_order,
            tensors=tensors,
            files=files,
        )
        if problems := manifest.coverage_problems():
            raise CheckpointError(f"step {step}: the ranks' parts do not make a whole: {'; '.join(problems[:3])}")
        for note in range(self.world_size):
            (aside / f"rank_{note:05d}.json").unlink()
        _write_durably(aside / MANIFEST, manifest.to_json())
        sync_folder(aside)
        final = self.folder / checkpoint_name(step)
        if final.exists():  # a run that went back to an older checkpoint passes this step again
            final.rename(final.with_name(f"{final.name}.{self.attempt}.deleting"))
        aside.rename(final)
        sync_folder(self.folder)
        removed = prune(self.folder, self.keep, self.permanent_every_steps)
        size = sum(file.size for file in files.values())
        self.on_saved(Saved(step, final, size, time.monotonic() - started, removed))

    def _collect(self, aside: Path) -> list[_Note]:
        """The notes of all ranks, as they come in."""
        deadline = time.monotonic() + self.timeout
        notes = []
        for rank in range(self.world_size):
            path = aside / f"rank_{rank:05d}.json"
            while not path.exists():
                if time.monotonic() > deadline:
                    raise CheckpointError(f"rank {rank} did not write its part within {self.timeout:.0f} s")
                time.sleep(0.02)
            note = TypeAdapter(_Note | _Failure).validate_json(path.read_bytes())
            if isinstance(note, _Failure):
                raise CheckpointError(f"rank {rank}: {note.error}")
            notes.append(note)
        return notes


def _copy(piece: Tensor) -> Tensor:
    """A contiguous copy in the machine's memory."""
    return torch.empty(piece.shape, dtype=piece.dtype).copy_(piece.detach())


def _write_durably(path: Path, text: str) -> None:
    """Write aside, fsync and rename: the name appears only when the content is whole."""
    aside = path.with_name(f"{path.name}.part")
    with aside.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)


def _space(folder: Path) -> str:
    free = shutil.disk_usage(folder if folder.exists() else folder.parent).free
    return f"{free / 1e9:.1f} GB are free there; make room or lower checkpoint.keep, then start the run again"
