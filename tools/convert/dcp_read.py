"""Read a folder of torch.distributed.checkpoint: `.metadata` says which box of which tensor lies where in which file.

Recognised are state dicts of `torch.distributed.checkpoint.state_dict.get_state_dict` under any names, such as
{"model": ..., "optim": ...}: moments are `...state.NAME.exp_avg`, flattened or not. All other tensors may be weights.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megamodel.errors import CheckpointError
from megamodel.optim.adamw import MOMENTS
from megamodel.parallel.shard import Box
from tools.convert.foreign import Foreign, ForeignTensor, Piece, one_step
from tools.convert.untrusted import Record, load_records, load_torch_slice

METADATA = ".metadata"
_STATE = re.compile(r"(?:^|.*?\.)state\.(?P<name>.+)\.(?P<kind>[^.]+)")
_STEP = re.compile(r"(?:app\.)?(?:(?:train_state|trainer|progress)\.)?(?:global_)?steps?")
"""Where a run's step is; that of a scheduler or of a loader is another number."""
_CHECKPOINT = "torch.distributed.checkpoint"
_CLASSES = frozenset(
    [
        *(
            f"{_CHECKPOINT}.metadata.{name}"
            for name in (
                "BytesStorageMetadata",
                "ChunkStorageMetadata",
                "Metadata",
                "MetadataIndex",
                "StorageMeta",
                "TensorProperties",
                "TensorStorageMetadata",
                "_MEM_FORMAT_ENCODING",
            )
        ),
        f"{_CHECKPOINT}.filesystem._StorageInfo",
        f"{_CHECKPOINT}.planner.WriteItemType",
        "pathlib.PosixPath",
        "pathlib._local.PosixPath",
        "torch.serialization._get_layout",
    ]
)


def read_dcp(folder: Path, weights_only: bool) -> Foreign:
    """What the folder holds; CheckpointError names the file that is missing or damaged."""
    tensors, plain = _entries(folder)
    states = {name: match for name in tensors if (match := _STATE.fullmatch(name))}
    weights = {n: t for n, t in tensors.items() if n not in states and t.shape != ()}
    by_kind: dict[str, dict[str, ForeignTensor]] = {"param": weights}
    if states and not weights_only:
        _check_adamw(folder, states)
        for moment in MOMENTS:
            by_kind[moment] = {match["name"]: tensors[n] for n, match in states.items() if match["kind"] == moment}
    counts = {name: _scalar(folder, name, tensors[name]) for name, match in states.items() if match["kind"] == "step"}
    updates = one_step(folder, counts)
    steps = _own_steps(folder, {n: t for n, t in tensors.items() if n not in states and t.shape == ()}, plain)
    return Foreign(
        folder,
        "torch.distributed.checkpoint",
        by_kind,
        None if weights_only else updates,
        next(iter(steps.values()), None),
        beside=_beside(states),
        doubt=_doubt(folder, steps, updates),
    )


def _own_steps(
    folder: Path, scalars: Mapping[str, ForeignTensor], plain: Mapping[str, Callable[[], Any]]
) -> dict[str, int]:
    """The run's step by each name under which it lies, as a tensor or as a plain number."""
    steps = {name: int(_scalar(folder, name, scalar)) for name, scalar in scalars.items() if _STEP.fullmatch(name)}
    values = {name: read() for name, read in plain.items() if _STEP.fullmatch(name)}
    return steps | {name: value for name, value in values.items() if type(value) is int and value >= 0}


def _doubt(folder: Path, steps: Mapping[str, int], updates: int | None) -> str | None:
    told = {f"`{name}`": step for name, step in steps.items()}
    if told and updates is not None:
        told["the optimizer's own count"] = updates
    if len(set(told.values())) < 2:
        return None
    places = ", ".join(f"{step} by {name}" for name, step in told.items())
    return f"{folder} is at step {places}; say with --step N at which one the run goes on."


def _beside(states: Mapping[str, "re.Match[str]"]) -> str | None:
    """What stands before `optim` and its like; None without an optimizer, or with several."""
    optimizers = {_optimizer(name, match) for name, match in states.items()}
    if len(optimizers) != 1:
        return None
    return re.sub(r"[^.]+\.$", "", optimizers.pop())


def _optimizer(name: str, match: "re.Match[str]") -> str:
    return name[: match.start("name")].removesuffix("state.")


def _check_adamw(folder: Path, states: Mapping[str, "re.Match[str]"]) -> None:
    alone = "import the weights alone with --weights-only"
    first: dict[tuple[str, str], str] = {}
    for name, match in states.items():
        if (other := first.setdefault((match["name"], match["kind"]), name)) != name:
            raise CheckpointError(
                f"{folder}: {other} and {name} are of two optimizers; save the right one alone, or {alone}"
            )
    kinds = {match["kind"] for match in states.values()}
    if not kinds >= set(MOMENTS):
        raise CheckpointError(
            f"{folder}: the optimizer keeps {', '.join(sorted(kinds))}, not the moments of AdamW; {alone}"
        )
    if numbered := next((name for name, match in states.items() if match["name"].isdigit()), None):
        raise CheckpointError(
            f"{folder}: {numbered} goes by a number, not a parameter's name; save with get_state_dict of "
            f"torch.distributed.checkpoint.state_dict, or {alone}"
        )


def _entries(folder: Path) -> tuple[dict[str, ForeignTensor], dict[str, Callable[[], Any]]]:
    """Every tensor of floating point or of one element, and what reads each other thing, by their whole names."""
    path = folder / METADATA
    metadata = load_records(path, _CLASSES)
    try:
        places = {
            (index["fqn"], tuple(index.state.get("offset") or ())): info
            for index, info in metadata["storage_data"].items()
        }
        entries = metadata["state_dict_metadata"].items()
        tensors = {
            name: _tensor(folder, name, entry, places)
            for name, entry in entries
            if type(entry).__name__ == "TensorStorageMetadata" and _is_state(entry)
        }
        return tensors, {
            name: partial(load_torch_slice, *_place(folder, places[name, ()]))
            for name, entry in entries
            if type(entry).__name__ == "BytesStorageMetadata" and (name, ()) in places
        }
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: damaged, or of a torch that is not known here ({type(error).__name__}: {error})"
        ) from None


def _is_state(entry: Record) -> bool:
    dtype = entry["properties"].state[0]
    return dtype.is_floating_point or math.prod(entry["size"]) == 1


def _tensor(folder: Path, name: str, entry: Record, places: Mapping[Any, Record]) -> ForeignTensor:
    pieces = []
    for chunk in entry["chunks"]:
        box = Box(tuple(chunk["offsets"]), tuple(chunk["sizes"]))
        info = places.get((name, box.offset))
        if info is None:
            raise CheckpointError(f"{folder / METADATA} does not say where {name} at {box.offset} lies")
        pieces.append(Piece(box, folder / info["relative_path"], _reader(name, box, _place(folder, info))))
    return ForeignTensor(tuple(entry["size"]), tuple(pieces))


def _place(folder: Path, info: Record) -> tuple[Path, int, int]:
    """File, first byte and number of bytes of an entry."""
    path = folder / info["relative_path"]
    if not path.resolve().is_relative_to(folder.resolve()):
        raise CheckpointError(f"{folder / METADATA} refers to {path}, outside the folder")
    if info.state.get("transform_descriptors"):
        raise CheckpointError(f"{path}: compressed by an extension of torch; save it without, and import that")
    offset, length = info["offset"], info["length"]
    _check_size(path, offset + length)
    return path, offset, length


def _reader(name: str, box: Box, place: tuple[Path, int, int]) -> Callable[[], Tensor]:
    path, offset, length = place

    def read() -> Tensor:
        value = load_torch_slice(path, offset, length)
        if not isinstance(value, torch.Tensor) or tuple(value.shape) != box.shape:
            raise CheckpointError(
                f"{path}: what lies at byte {offset} is not {name} {box.shape}; files of two saves are mixed"
            )
        return value.to(torch.float32)

    return read


def _check_size(path: Path, end: int) -> None:
    try:
        size = path.stat().st_size
    except OSError as error:
        raise CheckpointError(f"{path} is missing ({error.strerror}); copy the whole folder") from None
    if size < end:
        raise CheckpointError(f"{path} is cut off: {size} bytes, it must reach to {end}; copy it again")


def _scalar(folder: Path, name: str, tensor: ForeignTensor) -> float:
    if problem := tensor.problem():
        raise CheckpointError(f"{folder}: {name} is not whole: {problem}")
    return float(tensor.read())


def look_for_dcp(folder: Path) -> Iterator[Path]:
    """Folders of torch.distributed.checkpoint right below, for a hint."""
    return (path.parent for path in sorted(folder.glob(f"*/{METADATA}")))
