"""FSDP2 with the layers shared among the ranks of the pp axis."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from launcher.engines.fsdp import FsdpEngine
from megamodel.checkpoint import Manifest
from megamodel.gpt import Part
from megamodel.optim.adamw import MOMENTS
from megamodel.parallel.pipeline import Pipeline, rank_of_stage, split
from megamodel.parallel.shard import local_part


class PipelineEngine(FsdpEngine):
    """Each rank computes one stage or several; micro-batches pass through them by a schedule.

    A tied head on another stage than the embedding is a copy of it: both get the sum of their gradients, so they stay
    equal bit for bit; the first stage's is the one that counts and is saved.
    """

    def _parts(self) -> list[Part]:
        parallel = self.config.parallel
        per_rank = {"1f1b": 1, "interleaved_1f1b": parallel.pp_stages_per_rank, "zbv": 2}[parallel.pp_schedule]
        self.num_stages = parallel.pp * per_rank
        parts = split(self.config.model, self.config.train.seq_len, self.num_stages)
        self.stages = [stage for stage in range(self.num_stages) if self._rank_of(stage) == self.place["pp"]]
        self._pipeline: Pipeline | None = None
        return [parts[stage] for stage in self.stages]

    def _rank_of(self, stage: int) -> int:
        return rank_of_stage(stage, self.layout.pp, self.config.parallel.pp_schedule)

    def _is_copy(self, part: Part, name: str) -> bool:
        return name == "embed_tokens.weight" and not part.first

    def _group(self) -> dist.ProcessGroup:
        return self.plan.mesh.get_group("pp")

    def _forward_backward(self, micro_batches: Sequence[Tensor], target_tokens: int) -> Tensor:
        inputs = self.inputs(torch.cat(list(micro_batches)))
        if self._pipeline is None:
            self._pipeline = self._build_pipeline(len(micro_batches))
        self._target_tokens = target_tokens
        loss = self._pipeline.step(*inputs)
        self._sum_shared_gradients()
        self._sum_tied_gradients()
        return loss

    def _build_pipeline(self, micro_batches: int) -> Pipeline:
        return Pipeline(
            dict(zip(self.stages, self.parts, strict=True)),
            self.num_stages,
            self.config.parallel.pp_schedule,
            micro_batches,
            self._hidden_shape(self.config.train.micro_batch_size),
            (self.config.train.micro_batch_size, self.config.train.seq_len // self.layout.cp),
            self.config.data.separate_documents,
            self._group(),
            self.ranks.device,
            lambda total: total / self._target_tokens,
        )

    def _hidden_shape(self, sequences: int) -> tuple[int, int, int]:
        tokens = self.config.train.seq_len // (self.layout.cp * self.layout.tp)
        return sequences, tokens, self.config.model.hidden_size

    def _loss_sum(self, tokens: Tensor) -> Tensor:
        """Forward alone: each stage in turn; zero on the ranks without the last."""
        ids, targets, positions, documents = self.inputs(tokens)
        x = torch.empty(self._hidden_shape(len(ids)), dtype=self.dtype, device=self.ranks.device)
        total = torch.zeros((), device=self.ranks.device)
        for stage, part in zip(self.stages, self.parts, strict=True):
            if stage and self._rank_of(stage - 1) != self.place["pp"]:
                dist.recv(x, group=self._group(), group_src=self._rank_of(stage - 1))
            x = part(x if stage else ids, targets, None, positions, documents)
            if stage == self.num_stages - 1:
                total = x
            elif self._rank_of(stage + 1) != self.place["pp"]:
                dist.send(x.contiguous(), group=self._group(), group_dst=self._rank_of(stage + 1))
                x = torch.empty_like(x)
        return total

    def _tied(self) -> list[nn.Parameter]:
        """On the ranks of the first and the last stage: the table, or its copy, or both, in this order."""
        if not self.config.model.tie_word_embeddings:
            return []
        return [part.embed_tokens.weight for part in self.parts if part.part.first or part.part.last]

    def _sum_tied_gradients(self) -> None:
        gradients = [local_part(p.grad) for p in self._tied() if p.grad is not None]
        if len(gradients) == 2:
            gradients[0].add_(gradients[1])
            gradients[1].copy_(gradients[0])
        elif gradients:
            gradients[0].add_(self._of_the_other(gradients[0]))

    def _of_the_other(self, tensor: Tensor) -> Tensor:
        """Exchange a tensor between the rank of the first stage and the rank of the last."""
        ends = [self._rank_of(0), self._rank_of(self.num_stages - 1)]
        other = next(rank for rank in ends if rank != self.place["pp"])
        received = torch.empty_like(tensor)
        operations = [
            dist.P2POp(dist.isend, tensor, group=self._group(), group_peer=other),
            dist.P2POp(dist.irecv, received, group=self._group(), group_peer=other),
        ]
        for work in dist.batch_isend_irecv(operations):
            work.wait()
        return received

    def load(self, checkpoint: Path, reset_optimizer: bool = False) -> Manifest:
        """See `Engine`; the copy of a tied table takes the values of the first stage's."""
        manifest = super().load(checkpoint, reset_optimizer)
        tied = self._tied()
        states = [[p.data, *(self.optimizer.state[p][moment] for moment in MOMENTS)] for p in tied]
        if len(tied) == 2:
            for source, copy in zip(*states, strict=True):
                local_part(copy).copy_(local_part(source))
        elif tied:
            for value in states[0]:
                received = self._of_the_other(local_part(value))
                if 0 not in self.stages:
                    local_part(value).copy_(received)
        return manifest
