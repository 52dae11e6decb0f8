"""The arrangement of ranks: five axes, and the place of each rank on them."""

import math
from dataclasses import dataclass

from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")
"""From the slowest wire to the fastest: neighbours in tp are neighbouring ranks."""


@dataclass(frozen=True)
class Layout:
    """How many ranks each axis has."""

    pp: int = 1
    dp_replicate: int = 1
    dp_shard: int = 1
    cp: int = 1
    tp: int = 1

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes in the order of AXES."""
        return tuple(getattr(self, axis) for axis in AXES)

    @property
    def world_size(self) -> int:
        """Ranks in all."""
        return math.prod(self.sizes)

    @property
    def data_ranks(self) -> int:
        """Groups of ranks that read different samples."""
        return self.dp_replicate * self.dp_shard

    def place(self, rank: int) -> dict[str, int]:
        """The rank's position on each axis."""
        place = {}
        for axis, size in zip(reversed(AXES), reversed(self.sizes), strict=True):
            rank, place[axis] = divmod(rank, size)
        return place

    def data_rank(self, rank: int) -> int:
        """Which of the `data_ranks` groups the rank reads with."""
        place = self.place(rank)
        return place["dp_replicate"] * self.dp_shard + place["dp_shard"]

    def mesh(self, device_type: str) -> DeviceMesh:
        """A mesh with every axis by its name, over all ranks of the default process group."""
        return init_device_mesh(device_type, self.sizes, mesh_dim_names=AXES)

    def parameter_mesh(self, device_type: str) -> DeviceMesh:
        """A mesh for the parameters: the ranks of a sequence hold shards of them too, and add up their gradients."""
        sizes = (self.pp, self.dp_replicate, self.dp_shard * self.cp, self.tp)
        return init_device_mesh(device_type, sizes, mesh_dim_names=("pp", "dp_replicate", "dp_shard_cp", "tp"))

    def __str__(self) -> str:
        named = [f"{axis} {size}" for axis, size in zip(AXES, self.sizes, strict=True) if size > 1]
        return " x ".join(named) or "1 rank"
