"""Which box of a whole tensor this rank holds."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.placement_types import _StridedShard


@dataclass(frozen=True)
class Box:
    """A block of a whole tensor: where it starts and how far it goes in each dimension."""

    offset: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def slices(self) -> tuple[slice, ...]:
        """The box as an index into the whole tensor."""
        return tuple(slice(o, o + n) for o, n in zip(self.offset, self.shape, strict=True))

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def overlap(self, other: "Box") -> "Box | None":
        """The part that two boxes share, or None."""
        spans = list(zip(self.offset, self.shape, other.offset, other.shape, strict=True))
        start = tuple(max(a, b) for a, _, b, _ in spans)
        end = tuple(min(a + n, b + m) for a, n, b, m in spans)
        if any(e <= s for s, e in zip(start, end, strict=True)):
            return None
        return Box(start, tuple(e - s for s, e in zip(start, end, strict=True)))

    def relative_to(self, outer: "Box") -> tuple[slice, ...]:
        """This box as an index into a tensor that holds just `outer`."""
        return tuple(slice(o - p, o - p + n) for o, p, n in zip(self.offset, outer.offset, self.shape, strict=True))


def local_box(tensor: Tensor) -> Box:
    """The box of the whole tensor that this rank's part covers; all of it for a plain tensor."""
    offset, shape = [0] * tensor.dim(), list(tensor.shape)
    if isinstance(tensor, DTensor):
        coordinate = tensor.device_mesh.get_coordinate()
        assert coordinate is not None, "a rank outside the mesh holds no part of the tensor"
        cuts = zip(tensor.placements, coordinate, tensor.device_mesh.shape, strict=True)
        # FSDP2 cuts what tensor parallelism has cut already, though its axis comes first in the mesh.
        for placement, position, parts in sorted(cuts, key=lambda cut: isinstance(cut[0], _StridedShard)):
            if isinstance(placement, Shard | _StridedShard):
                each = -(-shape[placement.dim] // parts)
                start = min(position * each, shape[placement.dim])
                offset[placement.dim] += start
                shape[placement.dim] = min(each, shape[placement.dim] - start)
    return Box(tuple(offset), tuple(shape))


def is_first_copy(tensor: DTensor) -> bool:
    """True on the one rank, among those that hold the same box, that speaks for it."""
    coordinate = tensor.device_mesh.get_coordinate()
    assert coordinate is not None, "a rank outside the mesh holds no part of the tensor"
    return not any(
        isinstance(placement, Replicate) and position > 0
        for placement, position in zip(tensor.placements, coordinate, strict=True)
    )


def local_part(tensor: Tensor) -> Tensor:
    """This rank's part as a plain tensor that shares its storage."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def flat_boxes(shape: tuple[int, ...], start: int, stop: int) -> list[tuple[Box, int, int]]:
    """The elements [start, stop) of a tensor laid out flat, row by row, as boxes, each with its own range of them.

    ZeRO cuts parameters wherever its buffers end. Two dimensions take three boxes at most: the end of a row, whole
    rows, the beginning of one.
    """
    if start >= stop:
        return []
    if len(shape) <= 1:
        box = Box((start,), (stop - start,)) if shape else Box((), ())
        return [(box, start, stop)]
    row = math.prod(shape[1:])
    first, last = -(-start // row), stop // row
    if first > last:  # within one row
        return [_in_row(last, inner, row) for inner in flat_boxes(shape[1:], start - last * row, stop - last * row)]
    found = []
    if start < first * row:
        inner_start = start - (first - 1) * row
        found += [_in_row(first - 1, inner, row) for inner in flat_boxes(shape[1:], inner_start, row)]
    if first < last:
        rest = (0,) * (len(shape) - 1)
        found.append((Box((first, *rest), (last - first, *shape[1:])), first * row, last * row))
    if last * row < stop:
        found += [_in_row(last, inner, row) for inner in flat_boxes(shape[1:], 0, stop - last * row)]
    return found


def _in_row(index: int, inner: tuple[Box, int, int], row: int) -> tuple[Box, int, int]:
    box, start, stop = inner
    return Box((index, *box.offset), (1, *box.shape)), index * row + start, index * row + stop


@dataclass(frozen=True)
class Within:
    """Where in the whole a tensor lies that tensor parallelism left to this rank."""

    shape: tuple[int, ...]
    """Of the whole."""
    box: Box
    shared: bool
    """True when every rank of the tp axis has it whole."""
    speaks: bool
    """True on the rank, among those that have the same, that speaks for it."""


@dataclass(frozen=True)
class Holding:
    """What this rank holds of a whole tensor: live pieces, each shaped as its box."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    pieces: tuple[tuple[Box, Tensor], ...]
    written_by: Literal["this", "other", "any"]
    """Who puts the pieces into a checkpoint: this rank, another that holds the same, or any, since all hold them."""

    @classmethod
    def of(cls, tensor: Tensor, within: Within | None = None) -> "Holding":
        """The holding of a plain tensor, which every rank has whole, or of a distributed one.

        `within`: what of the whole the tensor is, when tensor parallelism has cut it before.
        """
        box, shape = local_box(tensor), tuple(tensor.shape)
        speaks = is_first_copy(tensor) if isinstance(tensor, DTensor) else None
        if within is not None:
            offset = tuple(a + b for a, b in zip(box.offset, within.box.offset, strict=True))
            box, shape, speaks = Box(offset, box.shape), within.shape, bool(speaks) and within.speaks
        pieces = ((box, local_part(tensor)),) if box.size else ()
        return cls(shape, tensor.dtype, pieces, "any" if speaks is None else "this" if speaks else "other")

    @classmethod
    def of_fragment(cls, shape: tuple[int, ...], start: int, flat: Tensor) -> "Holding":
        """The holding of the elements from `start` on of a tensor laid out flat, which no other rank has."""
        boxes = flat_boxes(shape, start, start + flat.numel())
        pieces = tuple((box, flat[first - start : end - start].view(box.shape)) for box, first, end in boxes)
        return cls(shape, flat.dtype, pieces, "this")


def holdings(
    parameters: Iterable[tuple[str, Tensor]], cuts: Mapping[str, Within] = MappingProxyType({})
) -> dict[str, Holding]:
    """What this rank holds of named parameters, which `cuts` may place within the whole ones."""
    return {name: Holding.of(parameter.data, cuts.get(name)) for name, parameter in parameters}
