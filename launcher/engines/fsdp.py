"""Parameters, gradients and optimizer state sharded over the ranks: FSDP2, or HSDP with several replicas; tp and cp."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from launcher.engines.torch_engine import TorchEngine, block_settings
from megamodel.gpt import GPT, Part
from megamodel.parallel.apply import Plan, ShardSettings, build_part
from megamodel.parallel.shard import is_first_copy, local_part


class FsdpEngine(TorchEngine):
    """torch's fully_shard: each rank keeps 1/dp_shard of every parameter and gathers a block when it is needed."""

    def _build_parts(self) -> list[GPT]:
        engine, parallel, device_type = self.config.engine, self.config.parallel, self.ranks.device.type
        plan = Plan(
            self.layout,
            self.layout.parameter_mesh(device_type),
            self.layout.mesh(device_type).get_group("cp") if self.layout.cp > 1 else None,
            parallel.cp_method,
            block_settings(engine),
            # A pipeline gathers and frees whole stages: a zero-bubble backward pass needs the weights where they were.
            ShardSettings(engine.reshard_after_forward and self.layout.pp == 1, engine.prefetch_blocks),
        )
        self.plan = plan
        models = []
        for part in self._parts():
            model, cuts = build_part(self.config.model, self.dtype, part, plan)
            self.cuts |= cuts
            models.append(model)
        return models

    def _parts(self) -> list[Part]:
        """The parts of the model that this rank computes."""
        return [Part(range(self.config.model.num_hidden_layers))]

    def _forward_backward(self, micro_batches: Sequence[Tensor], target_tokens: int) -> Tensor:
        loss = super()._forward_backward(micro_batches, target_tokens)
        self._sum_shared_gradients()
        return loss

    def _sum_shared_gradients(self) -> None:
        """Add up over the tp axis what each of its ranks computed from its own tokens, in one collective."""
        named = [(self.cuts.get(name), parameter.grad) for name, parameter in self.named_parameters()]
        shared = [local_part(grad) for cut, grad in named if grad is not None and cut is not None and cut.shared]
        if shared:
            flat = torch.cat([gradient.flatten() for gradient in shared])
            dist.all_reduce(flat, group=self.plan.mesh.get_group("tp"))
            for gradient, total in zip(shared, flat.split([g.numel() for g in shared]), strict=True):
                gradient.copy_(total.view_as(gradient))

    @contextlib.contextmanager
    def _reduced(self, last: bool) -> Iterator[None]:
        for part in self.parts:
            assert isinstance(part, FSDPModule)
            part.set_requires_gradient_sync(last)
        yield

    def _counts(self, name: str, parameter: nn.Parameter) -> bool:
        assert isinstance(parameter, DTensor)
        return is_first_copy(parameter) and (name not in self.cuts or self.cuts[name].speaks)

    def _sum_of_squares(self, value: Tensor) -> Tensor:
        dist.all_reduce(value)
        return value

    def evaluate(self, tokens: Tensor) -> Tensor:
        """As in every engine; parameters that only a backward pass would free are freed here."""
        total = super().evaluate(tokens)
        for part in self.parts:
            for module in part.modules():
                if isinstance(module, FSDPModule):
                    module.reshard()
        return total
