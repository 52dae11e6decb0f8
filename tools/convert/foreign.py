"""A checkpoint of other software: its tensors under its own names, in the pieces in which it stores them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from megamodel.checkpoint.manifest import tiling_problem
from megamodel.errors import CheckpointError
from megamodel.optim.adamw import MOMENTS
from megamodel.parallel.shard import Box

KINDS = ("param", *MOMENTS)
"""What there is of each parameter: its fp32 value and its moments."""


@dataclass(frozen=True)
class Piece:
    """A box of a tensor, where it lies, and how to read it."""

    box: Box
    file: Path
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class ForeignTensor:
    """A whole tensor in pieces. Those of a tensor that was cut flat are boxes of its elements in one row."""

    shape: tuple[int, ...]
    pieces: tuple[Piece, ...]
    flat: bool = False

    @property
    def box(self) -> Box:
        """All of it, in the coordinates of the pieces."""
        whole = (torch.Size(self.shape).numel(),) if self.flat else self.shape
        return Box((0,) * len(whole), whole)

    def problem(self) -> str | None:
        """What keeps the pieces from making up the tensor, each element once; None: nothing."""
        problem = tiling_problem(self.box.shape, [piece.box for piece in self.pieces])
        files = sorted({piece.file.name for piece in self.pieces})
        return f"{problem} (in {', '.join(files[:4]) or 'no file'})" if problem else None

    def read(self) -> Tensor:
        """The tensor in fp32; CheckpointError names the file that cannot give its piece."""
        whole = torch.empty(self.box.shape)
        for piece in self.pieces:
            value = piece.read()
            if tuple(value.shape) != piece.box.shape or not value.is_floating_point():
                raise CheckpointError(
                    f"{piece.file}: {value.dtype} {tuple(value.shape)} where {piece.box.shape} was announced"
                )
            whole[piece.box.slices] = value
        return whole.view(self.shape)


@dataclass(frozen=True)
class Foreign:
    """What a folder holds.

    `tensors` has the kinds of KINDS, or `param` alone when there is no optimizer state. `optimizer_step` counts the
    updates that the moments have seen, `global_step` what the software calls its step; None: the folder does not say.
    """

    path: Path
    kind: str
    tensors: Mapping[str, Mapping[str, ForeignTensor]]
    optimizer_step: int | None
    global_step: int | None
    notes: list[str] = field(default_factory=list)

    def check_complete(self) -> None:
        """CheckpointError when a tensor is not there whole, or is there twice."""
        for kind, tensors in self.tensors.items():
            for name, tensor in tensors.items():
                if problem := tensor.problem():
                    raise CheckpointError(f"{self.path}: {kind} of {name} is not whole: {problem}")


def one_step(path: Path, steps: Mapping[str, float]) -> int | None:
    """The step that all places agree on; CheckpointError names two that do not. None when there are none."""
    first: tuple[str, float] | None = None
    for place, step in steps.items():
        if first is None:
            first = place, step
        elif step != first[1]:
            raise CheckpointError(
                f"{path}: the optimizer is at step {first[1]:g} in {first[0]} and at step {step:g} in {place}; "
                "files of two saves are mixed, or the optimizer left parameters out. It can be imported with "
                "--weights-only"
            )
    if first is not None and (first[1] < 0 or first[1] != int(first[1])):
        raise CheckpointError(f"{path}: {first[0]} is at step {first[1]}, which is no number of updates")
    return int(first[1]) if first else None
