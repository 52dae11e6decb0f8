"""What a checkpoint says of itself: each tensor once, the boxes that make it up, and the digest of each file."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, NonNegativeInt, PositiveInt, ValidationError, model_validator

from megamodel.errors import CheckpointError, CheckpointUnreadable
from megamodel.parallel.shard import Box

MANIFEST = "manifest.json"
FORMAT_VERSION = 2
WEIGHTS_ONLY = "none"
"""`Manifest.optimizer` of a checkpoint that holds no optimizer state."""


class Chunk(BaseModel):
    """One box of a tensor: it lies in `file` under `key`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file: str
    key: str
    offset: tuple[NonNegativeInt, ...]
    shape: tuple[NonNegativeInt, ...]

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
    """A file of the checkpoint as it was when written: its bytes, and the BLAKE2b-256 of each `segment` of them.

    Segments, so that many threads and ranks can verify one file together.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    segment: PositiveInt
    digests: tuple[str, ...]

    @model_validator(mode="after")
    def _a_digest_for_each_segment(self) -> "FileEntry":
        if len(self.digests) != -(-self.size // self.segment):
            raise ValueError(f"{len(self.digests)} digests for {self.size} bytes in segments of {self.segment}")
        return self


class Manifest(BaseModel):
    """A checkpoint's table of contents. `step` is the loader's whole state.

    `model` and `data_order` are the settings that must not change when the run goes on: the architecture, and what the
    samples of a step follow from. `optimizer` is the kind whose state is here (WEIGHTS_ONLY: none is), begun afresh
    after step `optimizer_start`, or fewer steps later by those that made no update.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format_version: int = FORMAT_VERSION
    step: int
    optimizer: str
    optimizer_start: int = 0
    model: dict[str, Any]
    data_order: dict[str, Any]
    tensors: dict[str, TensorEntry]
    files: dict[str, FileEntry]

    @property
    def optimizer_updates(self) -> int:
        """Updates that the optimizer's state has seen: what its bias correction counts."""
        return self.step - self.optimizer_start

    def coverage_problems(self) -> list[str]:
        """One sentence for each tensor that its chunks do not tile exactly, or that lies in an unlisted file."""
        problems = []
        for name, entry in self.tensors.items():
            if problem := tiling_problem(entry.shape, [chunk.box for chunk in entry.chunks]):
                problems.append(f"tensor {name}: {problem}")
            elif strange := {chunk.file for chunk in entry.chunks} - self.files.keys():
                problems.append(
                    f"tensor {name}: a chunk lies in {min(strange)!r}, which is not a file of the checkpoint"
                )
        return problems

    def to_json(self) -> str:
        """The manifest as text, with the digest of its own content."""
        body = self.model_dump(mode="json")
        return json.dumps({"digest": _digest(body), "manifest": body}, indent=1)


def tiling_problem(shape: tuple[int, ...], boxes: list[Box]) -> str | None:
    """What keeps `boxes` from tiling a tensor of `shape`, each element once; None when they do. Linear in the boxes."""
    whole = Box((0,) * len(shape), shape)
    if any(not len(box.offset) == len(box.shape) == len(shape) for box in boxes):
        return f"a chunk has not the {len(shape)} dimensions of its shape {shape}"
    if _differences(boxes) == _differences([whole]):
        return None
    if any(whole.overlap(box) != box for box in boxes if box.size):
        return f"a chunk lies outside its shape {shape}"
    if (covered := sum(box.size for box in boxes)) != whole.size:
        return f"chunks hold {covered} of {whole.size} elements"
    return "chunks overlap"


def _differences(boxes: Iterable[Box]) -> dict[tuple[int, ...], int]:
    """How often each place is covered, differentiated along every dimension: +1 or -1 at each corner of each box.

    Two sets of boxes cover every place equally often just when these are equal, for they sum up to the same counts.
    """
    corners: Counter[tuple[int, ...]] = Counter()
    for box in boxes:
        if box.size:
            ends = [(start, start + length) for start, length in zip(box.offset, box.shape, strict=True)]
            for corner, sign in zip(product(*ends), _signs(len(ends)), strict=True):
                corners[corner] += sign
    return {corner: count for corner, count in corners.items() if count}


@cache
def _signs(dimensions: int) -> tuple[int, ...]:
    """The sign of each corner in the order of `product`: negative for an odd number of ends."""
    return tuple((-1) ** sum(ends) for ends in product((0, 1), repeat=dimensions))


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
    version = body.get("format_version")
    if version not in (1, FORMAT_VERSION):
        raise CheckpointUnreadable(
            f"{path}: format version {version}, this megamodel reads up to {FORMAT_VERSION}; "
            "read it with the version that wrote it"
        )
    try:
        return Manifest.model_validate(_from_version_1(body) if version == 1 else body)
    except (ValidationError, LookupError, TypeError, AttributeError):
        raise CheckpointError(f"{path}: not a format {version} manifest") from None


def _from_version_1(body: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had one chunk of a tensor a file, under the tensor's name, and one digest a file."""
    tensors = {
        name: entry | {"chunks": [chunk | {"key": name} for chunk in entry["chunks"]]}
        for name, entry in body["tensors"].items()
    }
    files = {
        name: {"size": file["size"], "segment": max(1, file["size"]), "digests": [file["digest"]]}
        for name, file in body["files"].items()
    }
    return body | {"format_version": FORMAT_VERSION, "tensors": tensors, "files": files}
