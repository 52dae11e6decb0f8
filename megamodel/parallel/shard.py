"""Which box of a whole tensor this rank holds."""

from dataclasses import dataclass

from torch import Tensor
from torch.distributed.tensor import DTensor, Replicate
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset


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
        size = 1
        for n in self.shape:
            size *= n
        return size

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
    if not isinstance(tensor, DTensor):
        return Box((0,) * tensor.dim(), tuple(tensor.shape))
    shape, offset = compute_local_shape_and_global_offset(tensor.shape, tensor.device_mesh, tensor.placements)
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
