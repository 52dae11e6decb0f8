"""What the engines with torch's own optimizer share: parts of the model whose parameters are whole or DTensors."""

import contextlib
import itertools
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from launcher.cluster.ranks import Ranks
from launcher.config import EngineConfig, RunConfig
from launcher.engines.base import Engine, StepOutput
from megamodel.checkpoint import Manifest, load_into
from megamodel.gpt import GPT, Part
from megamodel.init import initialize
from megamodel.optim.adamw import MOMENTS, allocate_moments, build_adamw, set_lr, set_step, state_key, state_shapes
from megamodel.parallel.apply import BlockSettings
from megamodel.parallel.shard import Holding, Within, holdings, local_part


def block_settings(engine: EngineConfig) -> BlockSettings:
    """What the run's settings say of the blocks."""
    return BlockSettings(
        engine.activation_checkpointing,
        engine.activation_checkpointing_nth,
        engine.activation_memory_budget,
        engine.offload_activations,
        engine.compile,
    )


class TorchEngine(Engine):
    """Forward, backward, one clip over all ranks' gradients, AdamW."""

    loss_scale = 1.0
    """Factor on the loss that cancels whatever division the engine's gradient reduction does by itself."""

    def __init__(self, config: RunConfig, ranks: Ranks, eos_id: int | None = None) -> None:
        super().__init__(config, ranks, eos_id)
        self.cuts: dict[str, Within] = {}
        self.parts = self._build_parts()
        for part in self.parts:
            part.to_empty(device=ranks.device)
        for named in (self.named_parameters(), self.named_copies()):
            initialize(holdings(named, self.cuts), config.model, config.seed)
        settings, named = config.optimizer, itertools.chain(self.named_parameters(), self.named_copies())
        self.optimizer = build_adamw(named, settings.betas, settings.eps, settings.weight_decay)
        self.module = self._wrap()

    @abstractmethod
    def _build_parts(self) -> list[GPT]:
        """This rank's parts of the model on the meta device, cut as the layout says."""

    def _wrap(self) -> nn.Module:
        """The module to call, around the only part."""
        return self.parts[0]

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters of all parts by their names in the whole model, each once."""
        for part in self.parts:
            yield from ((name, p) for name, p in part.named_parameters() if not self._is_copy(part.part, name))

    def named_copies(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that a rank holds besides, equal to those of the same names on this rank or another."""
        for part in self.parts:
            yield from ((name, p) for name, p in part.named_parameters() if self._is_copy(part.part, name))

    def _is_copy(self, part: Part, name: str) -> bool:
        return False

    def train_step(self, micro_batches: Sequence[Tensor], target_tokens: int, lr: float) -> StepOutput:
        """See `Engine`."""
        loss = self._forward_backward(micro_batches, target_tokens)
        grad_norm = self._clip()
        set_lr(self.optimizer, lr)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return StepOutput(self.sum_over_ranks(loss), grad_norm)

    def _forward_backward(self, micro_batches: Sequence[Tensor], target_tokens: int) -> Tensor:
        """Collect the gradients of all micro-batches; return this rank's part of the loss."""
        loss = torch.zeros((), dtype=torch.float32, device=self.ranks.device)
        for index, tokens in enumerate(micro_batches):
            with self._reduced(last=index == len(micro_batches) - 1):
                micro_loss = self._loss_sum(tokens) / target_tokens
                (micro_loss * self.loss_scale).backward()
            loss += micro_loss.detach()
        return loss

    def _reduced(self, last: bool) -> contextlib.AbstractContextManager[None]:
        """Context of one backward pass: gradients meet those of the other ranks in the last one only."""
        return contextlib.nullcontext()

    def _clip(self) -> Tensor:
        """Scale the gradient down to max_grad_norm; return its norm before.

        The squares are summed in fp64: in fp32 the order of summation, which the layout decides, shows at 1e-6 of the
        norm, and clipping hands that on to every weight.
        """
        counted = [
            local_part(p.grad) for name, p in self.named_parameters() if p.grad is not None and self._counts(name, p)
        ]
        squares = torch.zeros((), dtype=torch.float64, device=self.ranks.device)
        if counted:
            squares = torch.stack(torch._foreach_norm(counted, 2.0, dtype=torch.float64)).square().sum()
        norm = self._sum_of_squares(squares).sqrt().float()
        if self.config.optimizer.max_grad_norm is not None:
            everything = itertools.chain(self.named_parameters(), self.named_copies())
            gradients = [local_part(p.grad) for _, p in everything if p.grad is not None]
            torch._foreach_mul_(gradients, (self.config.optimizer.max_grad_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def _counts(self, name: str, parameter: nn.Parameter) -> bool:
        """True on the one rank that counts its part of this parameter's gradient in the norm."""
        return True

    def _sum_of_squares(self, value: Tensor) -> Tensor:
        """Add up over the ranks whose parts make up the whole gradient."""
        return value

    def state(self) -> dict[str, Holding]:
        """See `Engine`."""
        allocate_moments(self.optimizer)
        tensors: dict[str, Holding] = {}
        for name, parameter in self.named_parameters():
            cut = self.cuts.get(name)
            tensors[state_key("param", name)] = Holding.of(parameter.data, cut)
            for moment in MOMENTS:
                tensors[state_key(moment, name)] = Holding.of(self.optimizer.state[parameter][moment], cut)
        return tensors

    def load(self, checkpoint: Path, reset_optimizer: bool = False) -> Manifest:
        """See `Engine`."""
        manifest = load_into(checkpoint, self.state(), state_shapes(self.config.model), reset_optimizer)
        set_step(self.optimizer, 0 if reset_optimizer else manifest.optimizer_updates)
        return manifest
