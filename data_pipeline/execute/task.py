"""One task: a folder that appears whole when the task is done, and can be gone on with when it was killed before.

The name of the folder holds a digest of all that the task's result depends on. So a folder that exists is right,
whoever made it and when; after a change of the settings or the files only what they touch is made again.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import orjson

from data_pipeline.errors import DataError
from data_pipeline.execute.claim import claimed, cut_back, machine
from data_pipeline.files import sync_folder, write_atomically

RESULT = "result.json"
_PROGRESS = "progress.json"
_SIZES = "sizes"
"""What a result says of the files beside it."""
_SECONDS_BETWEEN_RECORDS = 3.0


def digest_of(spec: Any) -> str:
    """16 hex digits that stand for a JSON value."""
    data = orjson.dumps(spec, default=list, option=orjson.OPT_SORT_KEYS)
    return hashlib.blake2b(data, digest_size=8).hexdigest()


@dataclass(frozen=True)
class Task:
    """A unit of work that depends on no other of its stage."""

    stage: str
    index: int
    root: Path
    """The work folder."""
    spec: dict[str, Any] = field(repr=False)
    """All that its result depends on, as JSON."""
    size: int = 1
    """What it weighs in the stage's progress bar."""

    @cached_property
    def digest(self) -> str:
        """Stands for the result."""
        return digest_of([self.stage, self.index, self.spec])

    @property
    def folder(self) -> Path:
        """Where the result is, once it is there."""
        return self.root / self.stage / f"{self.index:06d}-{self.digest}"

    @property
    def done(self) -> bool:
        """True when the result is there."""
        return (self.folder / RESULT).exists()

    def result(self) -> dict[str, Any]:
        """What the task said when it was done."""
        return orjson.loads((self.folder / RESULT).read_bytes())


def drop_damaged(root: Path) -> list[Path]:
    """Remove the folders of finished tasks in which a file is gone or of another size; the tasks are done again."""
    damaged = [folder for folder in sorted(root.glob(f"*/{'[0-9]' * 6}-{'[0-9a-f]' * 16}")) if not _whole(folder)]
    for folder in damaged:
        shutil.rmtree(folder)
    return damaged


def _whole(folder: Path) -> bool:
    try:
        sizes = orjson.loads((folder / RESULT).read_bytes())[_SIZES]
        return all((folder / name).stat().st_size == size for name, size in sizes.items())
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return False


class TaskFolder:
    """The folder of a task at work. Files in it only grow; `record` makes what is in them permanent, with a state.

    After a kill the files are cut back to the last record, and the work goes on from its state.
    """

    def __init__(self, task: Task) -> None:
        """Use `working_on`."""
        self.task = task
        self.path = claimed(task.folder)
        self._files: dict[str, BinaryIO] = {}
        self.state: dict[str, Any] | None = self._restore()
        """What was last recorded; None at a beginning."""
        self._recorded = self._started = time.monotonic()
        if self.state is not None:
            self.record(self.state)  # from here on the files are this machine's

    def file(self, name: str) -> BinaryIO:
        """A file to append to."""
        if name not in self._files:
            self._files[name] = (self.path / name).open("ab", buffering=1 << 20)
        return self._files[name]

    @property
    def record_due(self) -> bool:
        """True when the last record is some seconds old."""
        return time.monotonic() - self._recorded > _SECONDS_BETWEEN_RECORDS

    def record(self, state: dict[str, Any]) -> None:
        """Make everything written so far permanent. `state` is JSON."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        self._sizes |= {name: file.tell() for name, file in self._files.items()}
        seconds = self._seconds()
        progress = {"sizes": self._sizes, "seconds": seconds, "state": state, "machine": machine()}
        write_atomically(self.path / _PROGRESS, orjson.dumps(progress, option=orjson.OPT_NON_STR_KEYS))
        self._recorded = time.monotonic()

    def finish(self, result: dict[str, Any], remove: Sequence[str] = ()) -> None:
        """Close the files and let the folder appear under its own name, without the files to `remove`."""
        for name, file in self._files.items():
            file.flush()
            os.fsync(file.fileno())
            if not os.path.samestat(os.fstat(file.fileno()), (self.path / name).stat()):
                raise OSError(errno.ESTALE, "another process took this task over", str(self.path))
            file.close()
        self._files.clear()
        for name in remove:
            (self.path / name).unlink(missing_ok=True)
        files = [path for path in self.path.rglob("*") if path.is_file() and path.name != _PROGRESS]
        sizes = {str(path.relative_to(self.path)): path.stat().st_size for path in files}
        result = {**result, "seconds": round(self._seconds(), 3), _SIZES: sizes}
        write_atomically(self.path / RESULT, json.dumps(result, ensure_ascii=False).encode())
        (self.path / _PROGRESS).unlink(missing_ok=True)
        self._appear()
        sync_folder(self.task.folder.parent)

    def _appear(self) -> None:
        """Rename the folder; when another process was faster, its result is the same."""
        try:
            self.path.rename(self.task.folder)
        except OSError:
            if not self.task.done:
                raise
            shutil.rmtree(self.path, ignore_errors=True)

    def abandon(self) -> None:
        """Close the files; what was recorded stays."""
        for file in self._files.values():
            with contextlib.suppress(OSError):
                file.close()

    def _seconds(self) -> float:
        return self._before + time.monotonic() - self._started

    def _restore(self) -> dict[str, Any] | None:
        """Cut the files back to the last record; without one, begin with an empty folder."""
        self._before = 0.0
        self._sizes: dict[str, int] = {}
        try:
            progress = orjson.loads((self.path / _PROGRESS).read_bytes())
            sizes, state = progress["sizes"], progress["state"]
            writer = progress["machine"]
            if any((self.path / name).stat().st_size < size for name, size in sizes.items()):
                raise ValueError("a file is shorter than recorded")
        except (OSError, ValueError, KeyError):
            sizes, state, writer = {}, None, ""
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name in sizes:
                cut_back(path, sizes[path.name], writer)
            elif state is None or path.name != _PROGRESS:
                path.unlink()
        if state is not None:
            self._before, self._sizes = float(progress["seconds"]), sizes
        return state


@contextlib.contextmanager
def working_on(task: Task) -> Iterator[TaskFolder]:
    """Give the folder to do a task in; for the holder of its lock. DataError when the disk cannot be written."""
    try:
        folder = TaskFolder(task)
        try:
            yield folder
        finally:
            folder.abandon()
    except OSError as error:
        raise disk_error(error, task.folder) from error


def disk_error(error: OSError, path: Path) -> DataError:
    """The sentence for a disk that is full or cannot be written."""
    where = error.filename or path
    return DataError(
        f"cannot write {where}: {error.strerror or error}. Mend that (free space, permissions) and give the same "
        "command again: it goes on where it stopped."
    )
