"""Pipeline parallelism: which blocks make a stage, which rank computes it, and the schedule of micro-batches."""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.pipelining import PipelineStage
from torch.distributed.pipelining.microbatch import TensorChunkSpec, _Replicate
from torch.distributed.pipelining.schedules import Schedule1F1B, ScheduleInterleaved1F1B, ScheduleZBVZeroBubble
from torch.distributed.pipelining.stage import _PipelineStageBase

from megamodel.config import ModelConfig
from megamodel.flops import matmul_parameters
from megamodel.gpt import GPT, Part

_BATCH = TensorChunkSpec(0)


def blocks_per_stage(config: ModelConfig, seq_len: int, stages: int) -> list[int]:
    """How many blocks each stage takes, so that the slowest is as fast as can be.

    A stage's time is counted in FLOPs a token: blocks, and the head on the last. Between equals the stage with fewer
    parameters takes the next block, where the embedding table counts on the first stage and the head on the last.
    """
    table = config.vocab_size * config.hidden_size
    block_parameters = (matmul_parameters(config) - table) // config.num_hidden_layers
    attention = 12 * config.num_attention_heads * config.size_per_head * seq_len
    counts = [1] * stages
    for _ in range(config.num_hidden_layers - stages):
        loads = [
            (
                (count + 1) * (6 * block_parameters + attention) + (6 * table if stage == stages - 1 else 0),
                (count + 1) * block_parameters + (table if stage in (0, stages - 1) else 0),
            )
            for stage, count in enumerate(counts)
        ]
        counts[loads.index(min(loads))] += 1
    return counts


def split(config: ModelConfig, seq_len: int, stages: int) -> list[Part]:
    """The parts of the model, one a stage, in order; at least as many blocks as stages are needed."""
    parts, start = [], 0
    for stage, count in enumerate(blocks_per_stage(config, seq_len, stages)):
        parts.append(Part(range(start, start + count), first=stage == 0, last=stage == stages - 1))
        start += count
    return parts


def rank_of_stage(stage: int, ranks: int, schedule: str) -> int:
    """Which rank of the pp axis computes a stage: in turn, or for zbv down the ranks and up again."""
    if schedule == "zbv" and stage >= ranks:
        return 2 * ranks - 1 - stage
    return stage % ranks


class Pipeline:
    """Forward and backward passes of all micro-batches of a step, through this rank's stages.

    Args:
        parts: this rank's parts of the model by stage.
        stages: number of stages in all.
        schedule: see `parallel.pp_schedule`.
        micro_batches: how many a step has.
        hidden_shape: of the hidden states [B, T, D] that this rank's stages take and give for one micro-batch.
        ids_shape: of a micro-batch's ids [B, T] on this rank.
        separate_documents: positions come for each sequence, and documents with them.
        group: the ranks of the pp axis.
        device: of the parts.
        loss: from the last stage's output, the summed cross-entropy, to what is differentiated.
    """

    def __init__(
        self,
        parts: dict[int, GPT],
        stages: int,
        schedule: str,
        micro_batches: int,
        hidden_shape: tuple[int, ...],
        ids_shape: tuple[int, ...],
        separate_documents: bool,
        group: dist.ProcessGroup,
        device: torch.device,
        loss: Callable[[Tensor], Tensor],
    ) -> None:
        self.first, self.last = 0 in parts, stages - 1 in parts
        dtype = next(iter(parts.values())).compute_dtype
        ids = torch.empty(ids_shape, dtype=torch.int64, device=device)
        hidden = torch.empty(hidden_shape, dtype=dtype, device=device, requires_grad=True)
        total = torch.empty((), dtype=torch.float32, device=device, requires_grad=True)
        mine: list[_PipelineStageBase] = []
        for index, part in sorted(parts.items()):
            takes, gives = hidden if index else ids, hidden if index < stages - 1 else total
            mine.append(PipelineStage(part, index, stages, device, takes, gives, group=group))
        self._schedule = self._build(schedule, mine, micro_batches, separate_documents, loss)

    @staticmethod
    def _build(
        name: str,
        stages: list[_PipelineStageBase],
        micro_batches: int,
        separate_documents: bool,
        loss: Callable[[Tensor], Tensor],
    ) -> Schedule1F1B | ScheduleInterleaved1F1B | ScheduleZBVZeroBubble:
        spec: dict[str, Any] = {"targets_BT": _BATCH, "positions": _Replicate()}
        if separate_documents:
            spec |= {"positions": _BATCH, "documents_BT": _BATCH}
        settings: dict[str, Any] = {
            "loss_fn": lambda output, _: loss(output),
            "scale_grads": False,
            "kwargs_chunk_spec": spec,
        }
        if name == "1f1b":
            return Schedule1F1B(stages[0], micro_batches, **settings)
        kind = ScheduleInterleaved1F1B if name == "interleaved_1f1b" else ScheduleZBVZeroBubble
        return kind(stages, micro_batches, **settings)

    def step(self, ids: Tensor, targets: Tensor, positions: Tensor, documents: Tensor | None) -> Tensor:
        """Run a whole step's sequences; return the sum of the differentiated losses, zero without the last stage."""
        losses: list[Tensor] = []
        extra: dict[str, Any] = {"targets_BT": targets, "positions": positions}
        if documents is not None:
            extra["documents_BT"] = documents
        self._schedule.step(
            *([ids] if self.first else []), target=targets, losses=losses, return_outputs=False, **extra
        )
        return torch.stack(losses).sum().detach() if losses else torch.zeros((), device=ids.device)
