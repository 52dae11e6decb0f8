"""A folder that a conversion makes: beside its place first, under its name only when it is whole and proved."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError

from launcher.errors import UserError, os_error_sentence
from megamodel.checkpoint.folder import sync_folder


def check_free(out: Path, marker: str, what: str, force: bool | None = None) -> None:
    """UserError unless `out` can be made, or replaced by --force: then it holds `marker`, by which one knows `what`.

    None: the command has no --force.
    """
    if Path.cwd().is_relative_to(out.resolve()):
        raise UserError(f"{out} is where you stand, or above it; give the name of a folder to be made.")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not force:
        replace = ", or --force to replace it" if force is not None else ""
        raise UserError(f"{out} exists already; give another folder{replace}.")
    if not (out / marker).is_file():
        raise UserError(f"{out} is no {what} (it has no {marker}), so --force does not replace it; remove it yourself.")


def check_writable(out: Path) -> None:
    """UserError when no folder can be made there."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Tried, not asked: a read-only mount, a quota or /proc say so only then.
        tempfile.TemporaryDirectory(prefix=f".{out.name}.writing-", dir=out.parent).cleanup()
    except OSError as error:
        raise UserError(
            f"{out} cannot be made, it is not writable there ({os_error_sentence(error)}); give another folder."
        ) from error


def check_space(parent: Path, size: int) -> None:
    """UserError when the disk has no room for `size` bytes and a little more."""
    free = shutil.disk_usage(parent).free
    if free < size * 1.05 + 2**24:
        raise UserError(f"{parent}: this takes {size / 1e9:.2f} GB, {free / 1e9:.2f} GB are free; make room there.")


@contextlib.contextmanager
def aside(out: Path) -> Iterator[Path]:
    """A folder beside `out` that is gone afterwards unless it was moved into place, whatever happens."""
    try:
        with tempfile.TemporaryDirectory(
            prefix=f".{out.name}.writing-", dir=out.parent, ignore_cleanup_errors=True
        ) as root:
            folder = Path(root) / "export"
            folder.mkdir()
            yield folder
    except (OSError, SafetensorError) as error:
        raise UserError(f"{out} cannot be written: {error}. Nothing was left behind.") from error


def put_in_place(folder: Path, out: Path) -> None:
    """Rename into place; a folder that stood there moves aside first and goes with the temporary one."""
    if out.exists():
        out.rename(folder.parent / "replaced")
    folder.rename(out)
    sync_folder(out.parent)
