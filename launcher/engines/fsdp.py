"""Parameters, gradients and optimizer state sharded over the ranks: FSDP2, or HSDP with several replicas."""

import contextlib
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from launcher.engines.torch_engine import TorchEngine
from megamodel.gpt import GPT
from megamodel.parallel.apply import prepare_blocks, shard_data_parallel
from megamodel.parallel.shard import is_first_copy


class FsdpEngine(TorchEngine):
    """torch's fully_shard: each rank keeps 1/dp_shard of every parameter and gathers a block when it is needed."""

    def _build_parts(self) -> list[GPT]:
        with torch.device("meta"):
            model = GPT(self.config.model, self.dtype)
        mesh = self.layout.mesh(self.ranks.device.type)
        prepare_blocks(model, self.config.engine.activation_checkpointing, self.config.engine.compile)
        shard_data_parallel(
            model, mesh["dp_shard"] if self.layout.dp_replicate == 1 else mesh["dp_replicate", "dp_shard"]
        )
        return [model]

    @contextlib.contextmanager
    def _reduced(self, last: bool) -> Iterator[None]:
        for part in self.parts:
            assert isinstance(part, FSDPModule)
            part.set_requires_gradient_sync(last)
        yield

    def _counts(self, parameter: nn.Parameter) -> bool:
        assert isinstance(parameter, DTensor)
        return is_first_copy(parameter)

    def _sum_of_squares(self, value: Tensor) -> Tensor:
        dist.all_reduce(value)
        return value

    def evaluate(self, tokens: Tensor) -> Tensor:
        """As in every engine; the root's parameters, which only a backward pass would free, are freed here."""
        total = super().evaluate(tokens)
        for part in self.parts:
            assert isinstance(part, FSDPModule)
            part.reshard()
        return total
