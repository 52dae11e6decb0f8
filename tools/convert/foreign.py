"""A checkpoint of other software: its tensors under its own names, in the pieces in which it stores them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
            value = piece.read().detach()
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

    beside: str | None = None
    """What stands before the optimizer's names and, if it is the same software's, before the weights' (DCP)."""
    doubt: str | None = None
    """Why the folder's own step cannot be believed: the user has to give one."""

    def read(self, kind: str, name: str) -> Tensor:
        """A tensor in fp32; CheckpointError names it when an element is no finite number."""
        value = self.tensors[kind][name].read()
        if value.numel() and not torch.stack(torch.aminmax(value)).isfinite().all():
            files = ", ".join(sorted({piece.file.name for piece in self.tensors[kind][name].pieces})[:4])
            raise CheckpointError(
                f"{self.path}: {kind} of {name} holds NaN or infinity (in {files}); that run had diverged or the file "
                "is damaged, so import an earlier save"
            )
        return value

    def check_complete(self) -> None:
        """CheckpointError when a tensor is not there whole, or is there twice."""
        for kind, tensors in self.tensors.items():
            for name, tensor in tensors.items():
                if problem := tensor.problem():
                    raise CheckpointError(f"{self.path}: {kind} of {name} is not whole: {problem}")


def check_updates(path: Path, model: Mapping[str, Any], made: int | None) -> None:
    """CheckpointError unless the model's file, at `path`, counts the updates that the optimizer's files have made."""
    steps, skipped = model.get("global_steps"), model.get("skipped_steps", 0)
    if made is None or not isinstance(steps, int) or not isinstance(skipped, int):
        return
    if steps - skipped != made:
        raise CheckpointError(
            f"{path} is of update {steps - skipped} (global_steps {steps} less skipped_steps {skipped}) and the "
            f"optimizer's files beside it are of update {made}: files of two saves are mixed, or the optimizer was "
            "begun anew on the way. Copy one save whole"
        )


def check_weights(foreign: Foreign, path: Path, module: Mapping[str, Any]) -> None:
    """CheckpointError unless the model's file, at `path`, holds each fp32 value as rounded to its type."""
    for name in foreign.tensors["param"]:
        value, rounded = foreign.read("param", name), module.get(name)
        if not isinstance(rounded, Tensor):
            raise CheckpointError(
                f"{path}: `module` lacks {name}, which the optimizer's files have; copy one save whole"
            )
        if rounded.shape != value.shape or not torch.equal(value.to(rounded.dtype), rounded.detach()):
            raise CheckpointError(
                f"{path}: {name} differs there from its fp32 value in the optimizer's files: files of two saves are "
                "mixed, or the ranks' files were renamed. Copy one save whole"
            )


def one_step(path: Path, steps: Mapping[str, float]) -> int | None:
    """The step that all places agree on; CheckpointError names two that do not. None when there are none."""
    first: tuple[str, float] | None = None
    for place, step in steps.items():
        if first is None:
            first = place, step
        elif step != first[1]:
            raise CheckpointError(
                f"{path}: the optimizer is at step {first[1]:g} in {first[0]} and at step {step:g} in {place}: "
                "files of two saves are mixed, or the optimizer left parameters out. Copy one save whole"
            )
    if first is not None and (first[1] < 0 or first[1] != int(first[1])):
        raise CheckpointError(f"{path}: {first[0]} is at step {first[1]}, which is no number of updates")
    return int(first[1]) if first else None
