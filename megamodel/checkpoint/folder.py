"""The folder of a run's checkpoints: which there are, which is good, which may go."""

import os
import re
import shutil
from pathlib import Path

from megamodel.checkpoint.verify import verify_checkpoint
from megamodel.errors import CheckpointError

_NAME = re.compile(r"step_(\d{8,})")
_LISTINGS = 20


def checkpoint_name(step: int) -> str:
    """Folder name of the checkpoint after `step` updates."""
    return f"step_{step:08d}"


def list_checkpoints(folder: Path) -> list[tuple[int, Path]]:
    """(step, path) of every committed checkpoint in a run's checkpoints folder, oldest first."""
    if not folder.is_dir():
        return []
    # The listing itself tells folders from files: asked later, a run in progress may have deleted what was listed.
    with os.scandir(folder) as entries:
        found = [(_NAME.fullmatch(entry.name), Path(entry.path)) for entry in entries if entry.is_dir()]
    return sorted((int(match[1]), path) for match, path in found if match)


def find_newest_good(folder: Path) -> tuple[Path | None, list[tuple[Path, list[str]]]]:
    """The newest checkpoint that verifies, and the newer ones that do not with their faults.

    One that a run in progress deletes meanwhile is not bad: the folder is listed again, for there is a newer one.
    """
    for _ in range(_LISTINGS):
        bad: list[tuple[Path, list[str]]] = []
        for _, path in reversed(list_checkpoints(folder)):
            faults = verify_checkpoint(path)
            if not faults:
                return path, bad
            if not path.is_dir():
                break
            bad.append((path, faults))
        else:
            return None, bad
    raise CheckpointError(
        f"{folder}: its run deletes checkpoints faster than they can be read; try again when the run has stopped"
    )


def quarantine(path: Path) -> Path:
    """Move a bad checkpoint out of the way, keeping its bytes for inspection; return where it went."""
    number = 1
    while (target := path.with_name(f"{path.name}.bad{number}")).exists():
        number += 1
    path.rename(target)
    return target


def prune(folder: Path, keep: int, permanent_every_steps: int | None) -> list[Path]:
    """Delete all but the newest `keep` checkpoints and those at multiples of `permanent_every_steps`; return them."""
    removed = []
    for step, path in list_checkpoints(folder)[:-keep]:
        if permanent_every_steps and step % permanent_every_steps == 0:
            continue
        # Renamed first: a kill in the middle of the deletion must not leave something that looks like a checkpoint.
        doomed = path.with_name(f"{path.name}.deleting")
        path.rename(doomed)
        shutil.rmtree(doomed)
        removed.append(path)
    return removed


def remove_leftovers(folder: Path) -> list[Path]:
    """Delete what a killed process left half-written or half-deleted; return the paths."""
    if not folder.is_dir():
        return []
    leftovers = [p for p in folder.iterdir() if p.is_dir() and (".writing-" in p.name or p.name.endswith(".deleting"))]
    for path in leftovers:
        shutil.rmtree(path)
    return leftovers


def sync_folder(path: Path) -> None:
    """Make renames and new names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
