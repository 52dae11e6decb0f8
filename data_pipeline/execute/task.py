"""One task: a folder that appears whole when the task is done, and can be gone on with when it was killed before.

The name of the folder holds a digest of all that the task's result depends on. So a folder that exists is right,
whoever made it and when; after a change of the settings or the files only what they touch is made again.
"""

import contextlib
import fcntl
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
from data_pipeline.files import sync_folder, write_atomically

RESULT = "result.json"
_PROGRESS = "progress.json"
_SECONDS_BETWEEN_RECORDS = 3.0
_LOCK_SECONDS = 10.0


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


class TaskFolder:
    """The folder of a task at work. Files in it only grow; `record` makes what is in them permanent, with a state.

    After a kill the files are cut back to the last record, and the work goes on from its state.
    """

    def __init__(self, task: Task) -> None:
        """Use `working_on`."""
        self.task = task
        self.path = task.folder.with_name(task.folder.name + ".partial")
        self.path.mkdir(parents=True, exist_ok=True)
        self._files: dict[str, BinaryIO] = {}
        self.state: dict[str, Any] | None = self._restore()
        """What was last recorded; None at a beginning."""
        self._recorded = self._started = time.monotonic()

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
        sizes = {name: file.tell() for name, file in self._files.items()}
        seconds = self._seconds()
        data = orjson.dumps({"sizes": sizes, "seconds": seconds, "state": state}, option=orjson.OPT_NON_STR_KEYS)
        write_atomically(self.path / _PROGRESS, data)
        self._recorded = time.monotonic()

    def finish(self, result: dict[str, Any], remove: Sequence[str] = ()) -> None:
        """Close the files and let the folder appear under its own name, without the files to `remove`."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
            file.close()
        self._files.clear()
        for name in remove:
            (self.path / name).unlink(missing_ok=True)
        result = {**result, "seconds": round(self._seconds(), 3)}
        write_atomically(self.path / RESULT, json.dumps(result, ensure_ascii=False).encode())
        (self.path / _PROGRESS).unlink(missing_ok=True)
        self.path.rename(self.task.folder)
        sync_folder(self.task.folder.parent)

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
        try:
            progress = orjson.loads((self.path / _PROGRESS).read_bytes())
            sizes, state = progress["sizes"], progress["state"]
            if any((self.path / name).stat().st_size < size for name, size in sizes.items()):
                raise ValueError("a file is shorter than recorded")
        except (OSError, ValueError, KeyError):
            sizes, state = {}, None
        for path in self.path.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name in sizes:
                os.truncate(path, sizes[path.name])
            elif state is None or path.name != _PROGRESS:
                path.unlink()
        if state is not None:
            self._before = float(progress["seconds"])
        return state


@contextlib.contextmanager
def working_on(task: Task) -> Iterator[TaskFolder]:
    """Be the only process at work on this task. DataError when another one is, or when the disk cannot be written."""
    try:
        with _locked(task):
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


@contextlib.contextmanager
def _locked(task: Task) -> Iterator[None]:
    path = task.folder.with_name(task.folder.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        end = time.monotonic() + _LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise DataError(
                        f"another process is at work on task {task.index} of {task.stage} in {task.root}; "
                        "wait for it or stop it."
                    ) from None
                time.sleep(0.1)
        yield
        path.unlink(missing_ok=True)
