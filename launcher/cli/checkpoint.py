"""`megamodel checkpoint list|verify`."""

import json
import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

_LISTINGS = 20
_ONE = re.compile(r"step_(\d{8,})(\.bad\d+)?")
"""A checkpoint's folder, or that of one that `train` found damaged and put aside."""
PathArgument = Annotated[Path, typer.Argument(help="A run, its checkpoints folder, or one checkpoint.")]
Row = dict[str, Any]
Json = Annotated[bool, typer.Option("--json", help="Print the table as JSON.")]


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    group = typer.Typer(no_args_is_help=True, help="List and verify checkpoints.")
    group.command(name="list")(list_)
    group.command()(verify)
    app.add_typer(group, name="checkpoint")


def list_(path: PathArgument, as_json: Json = False) -> None:
    """List checkpoints, oldest first. Reads manifests only; `verify` reads every byte."""
    _print(_rows(path, _described), as_json)


def verify(path: PathArgument, as_json: Json = False) -> None:
    """Read every byte of every checkpoint and compare with the digests taken while it was written."""
    from launcher.errors import CheckFailed

    rows = _rows(path, _verified)
    _print(rows, as_json)
    if bad := [row["path"] for row in rows if not row["good"]]:
        raise CheckFailed(f"{len(bad)} of {len(rows)} checkpoints are damaged; `train` will not use them")


def _described(step: int, checkpoint: Path) -> Row:
    from megamodel.checkpoint import read_manifest
    from megamodel.errors import CheckpointError

    row: Row = {"step": step, "path": str(checkpoint), "bytes": None, "files": None, "written": None}
    try:
        manifest = read_manifest(checkpoint)
        row |= {"bytes": sum(f.size for f in manifest.files.values()), "files": len(manifest.files)}
        row["written"] = datetime.fromtimestamp(checkpoint.stat().st_mtime).isoformat(" ", "seconds")
        return row | {"state": "complete (not verified)"}
    except (CheckpointError, FileNotFoundError) as error:
        return row | {"state": str(error)}


def _verified(step: int, checkpoint: Path) -> Row:
    from data_pipeline.progress import progress
    from megamodel.checkpoint import verify_checkpoint
    from megamodel.errors import CheckpointError

    try:
        with progress(f"verifying {checkpoint.name}", _size(checkpoint)) as on_read:
            faults = verify_checkpoint(checkpoint, on_read)
    except CheckpointError as error:
        faults = [str(error)]
    return {"step": step, "path": str(checkpoint), "state": "; ".join(faults) or "good", "good": not faults}


def _size(checkpoint: Path) -> int:
    """Bytes of a checkpoint's files; 0 when its run deletes it meanwhile."""
    try:
        return sum(path.stat().st_size for path in checkpoint.iterdir())
    except OSError:
        return 0


def _rows(path: Path, examine: Callable[[int, Path], Row]) -> list[Row]:
    """What `examine` says of each checkpoint. One that a run in progress deletes meanwhile is left out, not damaged."""
    from launcher.errors import UserError

    for _ in range(_LISTINGS):
        rows = [examine(step, checkpoint) for step, checkpoint in _find(path)]
        if there := [row for row in rows if row.get("good") or Path(row["path"]).is_dir()]:
            return there
    raise UserError(f"{path}: its run deletes checkpoints faster than they can be read; try again when it has stopped")


def _find(path: Path) -> list[tuple[int, Path]]:
    """The checkpoints that a path means; UserError when there are none."""
    from launcher.errors import UserError
    from megamodel.checkpoint import list_checkpoints

    if not path.exists():
        raise UserError(f"{path} does not exist; give a run, its checkpoints folder, or one checkpoint")
    own = path.resolve()
    if match := _ONE.fullmatch(own.name):
        return [(int(match[1]), own)]
    found = list_checkpoints(path / "checkpoints") or list_checkpoints(path)
    if not found:
        raise UserError(f"{path} holds no checkpoints; give a run, its checkpoints folder, or one checkpoint")
    return found


def _print(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table()
    for column in (columns := [c for c in rows[0] if c != "good"]):
        table.add_column(column, overflow="fold")
    for row in rows:
        shown = row | {"path": Path(row["path"]).name}
        table.add_row(*(f"{row[c]:,}" if c == "bytes" and row[c] else str(shown[c]) for c in columns))
    Console().print(table)
