"""Parameters, gradients and optimizer state sharded over the ranks: FSDP2, or HSDP with several replicas."""

import contextlib
from collections.abc import Iterator

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule

from launcher.cluster.ranks import Ranks
from launcher.config import ParallelConfig
from launcher.engines.base import Engine
from launcher.errors import UserError
from megamodel.parallel.apply import shard_data_parallel


class FsdpEngine(Engine):
    """torch's fully_shard: each rank keeps 1/dp_shard of every parameter and gathers a block when it is needed."""

    def _distribute(self) -> nn.Module:
        mesh = data_parallel_mesh(self.config.parallel, self.ranks)
        self._shard_group = mesh.get_group("dp_shard")
        shard_data_parallel(self.model, mesh)
        self._materialise()
        return self.model

    @contextlib.contextmanager
    def _reduced(self, last: bool) -> Iterator[None]:
        assert isinstance(self.model, FSDPModule)
        self.model.set_requires_gradient_sync(last)
        yield

    def _sum_over_shards(self, value: Tensor) -> Tensor:
        dist.all_reduce(value, group=self._shard_group)
        return value

    def evaluate(self, tokens: Tensor) -> Tensor:
        """As in every engine; the root's parameters, which only a backward pass would free, are freed here."""
        total = super().evaluate(tokens)
        assert isinstance(self.model, FSDPModule)
        self.model.reshard()
        return total


def data_parallel_mesh(parallel: ParallelConfig, ranks: Ranks) -> DeviceMesh:
    """A mesh (dp_shard) or (dp_replicate, dp_shard) over all ranks; UserError when they do not fill it."""
    replicate = parallel.dp_replicate
    shard = parallel.dp_shard or max(1, ranks.world_size // replicate)
    if replicate * shard != ranks.world_size:
        raise UserError(
            f"parallel.dp_replicate={replicate} x parallel.dp_shard={shard} is {replicate * shard} ranks, "
            f"but {ranks.world_size} were started; leave dp_shard unset to take what fits"
        )
    if replicate == 1:
        return init_device_mesh(ranks.device.type, (shard,), mesh_dim_names=("dp_shard",))
    return init_device_mesh(ranks.device.type, (replicate, shard), mesh_dim_names=("dp_replicate", "dp_shard"))
