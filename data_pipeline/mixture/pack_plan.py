"""The plan of a packed shard set on disk: which pieces each window holds, so that it is opened in a moment.

A folder with `plan.json` (the counts), `pieces.bin` (rows of PIECE), `windows.bin` (WINDOW) and `blocks.bin` (BLOCK).
It holds nothing that does not follow from the set.
"""

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, NonNegativeInt, ValidationError

from data_pipeline.errors import DataError
from data_pipeline.mixture.packing import PIECE
from data_pipeline.shards import ShardSet

DESCRIPTION = "plan.json"
"""Written last: a folder without it is no plan."""
WINDOW = np.dtype([("end", "<i8"), ("check", "<u4")])
"""One row a window: the number of pieces up to its last one, and a digest of its pieces."""
BLOCK = np.dtype([("token_end", "<i8"), ("window_end", "<i8")])
"""One row a block of documents: tokens of the set, and windows, up to its end."""
ROWS = {"pieces": PIECE, "windows": WINDOW, "blocks": BLOCK}
"""What each NAME.bin holds."""


class Counts(BaseModel):
    """What a way to cut the set into windows makes of it."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    windows: NonNegativeInt = 0
    """Windows in one epoch."""
    targets: NonNegativeInt = 0
    """Tokens that are predicted in one epoch."""
    cut_documents: NonNegativeInt = 0
    """Documents that are not whole in one window."""


class PackPlan(BaseModel):
    """The plan's own description."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    format: Literal["megamodel-packing"] = "megamodel-packing"
    """What this file is."""
    version: Literal[1] = 1
    """Version of the format and of the algorithm."""
    seq_len: int
    """Tokens in a sequence; a window has one more."""
    content_sha256: str
    """The shard set's identity."""
    documents: NonNegativeInt
    """Documents in the set."""
    too_long_documents: NonNegativeInt
    """Documents longer than a window, which any packing must cut."""
    best_fit: Counts
    """Packed as planned here."""
    contiguous: Counts
    """For comparison: windows one after the other, wherever documents end."""
    rows: dict[str, NonNegativeInt]
    """Rows in pieces.bin, windows.bin and blocks.bin."""


class OpenPlan:
    """A plan whose files are mapped."""

    def __init__(self, folder: Path, shards: ShardSet, seq_len: int) -> None:
        """Open a finished plan. DataError when it is not one for this set and length, or is damaged."""
        self.folder = folder
        try:
            self.plan = PackPlan.model_validate_json((folder / DESCRIPTION).read_bytes())
            self.pieces, self.windows, self.blocks = (self._map(name) for name in ROWS)
        except ValidationError as error:
            raise self.damaged(f"{DESCRIPTION}: {error.errors()[0]['msg']}") from error
        except (OSError, ValueError, KeyError) as error:
            raise self.damaged(str(error)) from error
        if (self.plan.seq_len, self.plan.content_sha256) != (seq_len, shards.digest):
            raise self.damaged("it is for other tokens or another length")

    def damaged(self, why: str) -> DataError:
        """The error to raise when the plan cannot be believed."""
        return DataError(f"the packing plan {self.folder} is damaged ({why}); remove the folder: it is made again.")

    def _map(self, name: str) -> np.ndarray:
        rows, kind = self.plan.rows[name], ROWS[name]
        path = self.folder / f"{name}.bin"
        if path.stat().st_size != rows * kind.itemsize:
            raise ValueError(f"{path.name} has {path.stat().st_size} bytes, not {rows * kind.itemsize}")
        return np.asarray(np.memmap(path, kind, "r", shape=(rows,))) if rows else np.empty(0, kind)
