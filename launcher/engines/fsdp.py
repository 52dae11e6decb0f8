"""Parameters, gradients and optimizer state sharded over the ranks: FSDP2, or HSDP with several replicas; tp and cp."""

import contextlib
from collections.abc import Iterator

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from launcher.engines.torch_engine import TorchEngine, block_settings
from megamodel.gpt import GPT, Part
from megamodel.parallel.apply import ShardSettings, build_part
from megamodel.parallel.shard import is_first_copy


class FsdpEngine(TorchEngine):
    """torch's fully_shard: each rank keeps 1/dp_shard of every parameter and gathers a block when it is needed."""

    def _build_parts(self) -> list[GPT]:
        return [self._build_part(Part(range(self.config.model.num_hidden_layers)))]

    def _build_part(self, part: Part) -> GPT:
        engine, parallel = self.config.engine, self.config.parallel
        shards = ShardSettings(engine.reshard_after_forward, engine.prefetch_blocks)
        device_type = self.ranks.device.type
        blocks = block_settings(engine)
        return build_part(
            self.config.model, self.dtype, part, self.layout, device_type, parallel.cp_method, blocks, shards
        )

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
