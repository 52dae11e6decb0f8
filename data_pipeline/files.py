"""Files written whole or not at all, and their digests."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.errors import DataError


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, flush to the disk, rename: a reader sees the old file or the new one, never a part."""
    aside = path.with_name(path.name + ".partial")
    try:
        with aside.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        aside.unlink(missing_ok=True)
        raise DataError(f"cannot write {path}: {error.strerror or error}.") from error


class Busy(DataError):
    """Another process is making the same thing."""


@contextlib.contextmanager
def folder_aside(target: Path) -> Iterator[Path]:
    """Give a new hidden folder beside `target` in which to make it; Busy while another process makes it.

    The folder is removed at the end, like those of processes that were killed. What `target` was before may wait in it
    under the name `old`: it returns when `target` is not there.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target):
        for dead in target.parent.glob(f".{glob.escape(target.name)}.making-????????"):
            _clear(dead, target)
        aside = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.making-"))
        try:
            yield aside
        finally:
            _clear(aside, target)


def _clear(aside: Path, target: Path) -> None:
    if not target.exists() and (aside / "old").exists():
        (aside / "old").rename(target)
    shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def making(target: Path) -> Iterator[None]:
    """Be the only process that makes `target`, whose folder is made if need be; DataError while another one does."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(target):
        yield


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Be the only process that makes `target`; the lock of a process that was killed is free."""
    path = target.with_name(f".{target.name}.lock")
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            mine = os.path.samestat(os.fstat(file.fileno()), path.stat())
        except (BlockingIOError, FileNotFoundError):
            mine = False
        if not mine:
            raise Busy(f"another process is writing {target}; wait for it, or choose another place.")
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Make renames in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems have no such thing
            raise
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """Digest a file, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
