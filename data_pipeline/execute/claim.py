"""Who works on a task: one process at a time, and never two in the same files.

A lock keeps processes apart. A node that is cut from the network loses its lock and may write on: whoever takes its
task over renames the folder and copies what was recorded, so that the late writer reaches nobody's files.
"""

import contextlib
import errno
import fcntl
import os
import platform
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from data_pipeline.errors import DataError

_LOCK_SECONDS = 120.0
"""A server of NFS keeps the locks of a machine that is gone for about 90 seconds."""
_NO_LOCKS = {errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK}


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Be the only process at work on what becomes this folder; the lock of a killed process is free.

    DataError when another process keeps it for two minutes, or the file system has no locks.
    """
    path = folder.with_name(folder.name + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + _LOCK_SECONDS
    while True:
        with path.open("a") as file:
            if _lock(file.fileno(), path):
                yield
                path.unlink(missing_ok=True)
                return
        if time.monotonic() > end:
            raise DataError(f"another process is at work on {folder}; wait for it or stop it.")
        time.sleep(0.1)


def _lock(descriptor: int, path: Path) -> bool:
    """Take the lock of an open file, if it is free and still the file of that name."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except (BlockingIOError, FileNotFoundError):
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        raise DataError(
            f"the file system of {path} has no file locks (flock); choose an `out` on one that has, or have it "
            "mounted with them."
        ) from None


def claimed(folder: Path) -> Path:
    """A folder to make `folder` in that no other process knows; with what a killed or lost one left of it, if any."""
    mine = folder.with_name(f"{folder.name}.{secrets.token_hex(4)}.partial")
    for left in folder.parent.glob(f"{folder.name}.*.partial"):
        if mine.exists():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(FileNotFoundError):
                left.rename(mine)
    mine.mkdir(exist_ok=True)
    return mine


def cut_back(path: Path, size: int, writer: str) -> None:
    """Make a file end after `size` bytes; as a new file where its `writer`, on another machine, may still be alive."""
    if writer == machine():
        os.truncate(path, size)
        return
    aside = path.with_name(path.name + ".copy")
    with path.open("rb") as old, aside.open("wb") as new:
        while size:
            block = old.read(min(size, 1 << 24))
            if not block:
                raise OSError(errno.EIO, "a file became shorter while it was read", str(path))
            new.write(block)
            size -= len(block)
        new.flush()
        os.fsync(new.fileno())
    aside.replace(path)


def machine() -> str:
    """Names this machine, since it was started: here a free lock means that its last holder is dead."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return platform.node()  # no Linux
