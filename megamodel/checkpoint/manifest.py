"""What a checkpoint says of itself: each tensor once, the boxes that make it up, and the digest of each file."""

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from megamodel.errors import CheckpointError, CheckpointUnreadable
from megamodel.parallel.shard import Box

MANIFEST = "manifest.json"
FORMAT_VERSION = 2


class Chunk(BaseModel):
    """One box of a tensor: it lies in `file` under `key`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    key: str
    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def box(self) -> Box:
        """The box that the chunk covers."""
        return Box(self.offset, self.shape)


class TensorEntry(BaseModel):
    """A whole tensor: its shape and the chunks that tile it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: tuple[int, ...]
    dtype: str
    chunks: tuple[Chunk, ...]


class FileEntry(BaseModel):
    """A file of the checkpoint as it was when written: bytes and BLAKE2b-256 digest."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    digest: str


class Manifest(BaseModel):
    """A checkpoint's table of contents. `step` is the loader's whole state.

    `model` and `data_order` are the settings that must not change when the run goes on: the architecture, and what the
    samples of a step follow from.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int = FORMAT_VERSION
    step: int
    optimizer: str
    model: dict[str, Any]
    data_order: dict[str, Any]
    tensors: dict[str, TensorEntry]
    files: dict[str, FileEntry]

    def coverage_problems(self) -> list[str]:
        """One sentence for each tensor that its chunks do not tile exactly."""
        problems = []
        for name, entry in self.tensors.items():
            whole = Box((0,) * len(entry.shape), entry.shape)
            boxes = [chunk.box for chunk in entry.chunks]
            if any(whole.overlap(box) != box for box in boxes if box.size):
                problems.append(f"tensor {name}: a chunk lies outside its shape {entry.shape}")
            elif (covered := sum(box.size for box in boxes)) != whole.size:
                problems.append(f"tensor {name}: chunks hold {covered} of {whole.size} elements")
            elif any(a.overlap(b) for i, a in enumerate(boxes) for b in boxes[:i]):
                problems.append(f"tensor {name}: chunks overlap")
        return problems

    def to_json(self) -> str:
        """The manifest as text, with the digest of its own content."""
        body = self.model_dump(mode="json")
        return json.dumps({"digest": _digest(body), "manifest": body}, indent=1)


def _digest(body: object) -> str:
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=32).hexdigest()


def read_manifest(checkpoint: Path) -> Manifest:
    """Read a checkpoint's manifest; CheckpointError when it is missing, damaged or of another version."""
    path = checkpoint / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        body, digest = content["manifest"], content["digest"]
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint}: no {MANIFEST}, so this is not a complete checkpoint") from None
    except OSError as error:
        if isinstance(error, NotADirectoryError | IsADirectoryError):
            raise CheckpointError(f"{path}: not a file") from None
        raise CheckpointUnreadable(f"{path}: {error.strerror}; it may be whole, so make it readable") from error
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged, it cannot be read ({error.__class__.__name__}: {error})") from None
    if _digest(body) != digest:
        raise CheckpointError(f"{path}: damaged, its content does not match its own digest")
    if body.get("format_version") != FORMAT_VERSION:
        raise CheckpointUnreadable(
            f"{path}: format version {body.get('format_version')}, this megamodel reads {FORMAT_VERSION}; "
            "read it with the version that wrote it"
        )
    try:
        manifest = Manifest.model_validate(body)
    except ValidationError as error:
        raise CheckpointError(
            f"{path}: not a format {FORMAT_VERSION} manifest ({error.error_count()} faults)"
        ) from None
    return manifest
