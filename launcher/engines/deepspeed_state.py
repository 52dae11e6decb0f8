"""Where DeepSpeed keeps this rank's fp32 weights and moments: as stretches of flat tensors, by parameter."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from megamodel.optim.adamw import MOMENTS, state_key
from megamodel.parallel.shard import Holding

Partition = dict[str, Tensor]
"""A flat fp32 stretch of the weights ("param") and its moments, one tensor each, of the same length."""


@dataclass(frozen=True)
class Fragment:
    """The part of one parameter that this rank updates: elements [start, start + length) of it laid out flat."""

    name: str
    shape: tuple[int, ...]
    start: int
    length: int
    partition: int
    """Which of the flat tensors it lies in, from `offset` on."""
    offset: int


class FlatState(ABC):
    """This rank's share of the state, through ZeRO's own optimizer (`zero`), which wraps torch's.

    Args:
        zero: what `deepspeed.initialize` made of the optimizer.
        parameters: the model's, by name.
        shapes: their whole shapes, by name.
    """

    def __init__(
        self, zero: Any, parameters: Iterable[tuple[str, nn.Parameter]], shapes: Mapping[str, tuple[int, ...]]
    ) -> None:
        self.zero = zero
        found = (self._fragment(name, parameter, shapes[name]) for name, parameter in parameters)
        self.fragments = [fragment for fragment in found if fragment is not None and fragment.length > 0]

    @property
    @abstractmethod
    def masters(self) -> list[Tensor]:
        """The flat fp32 weights."""

    @abstractmethod
    def _fragment(self, name: str, parameter: Any, shape: tuple[int, ...]) -> Fragment | None: ...

    @abstractmethod
    def take_over(self, partitions: list[Partition], step: int) -> None:
        """Go on from what was written into `partitions` (see `partitions`): all ranks compute with it from now on.

        step: the optimizer steps that lie behind it, for the bias correction.
        """

    def partitions(self) -> list[Partition]:
        """The flat tensors themselves; those that lie on a disk are read into copies, which `take_over` writes back."""
        return [self._live(master) for master in self.masters]

    def holdings(self, partitions: list[Partition]) -> dict[str, Holding]:
        """The partitions as pieces of the parameters and moments, by their keys in a checkpoint."""
        held = {}
        for f in self.fragments:
            for kind, flat in partitions[f.partition].items():
                stretch = flat.narrow(0, f.offset, f.length)
                held[state_key(kind, f.name)] = Holding.of_fragment(f.shape, f.start, stretch)
        return held

    def _live(self, master: Tensor) -> Partition:
        """A flat weight and its moments, which come into being here where no step has made them yet."""
        state = self.zero.optimizer.state[master]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=master.device)
            for moment in MOMENTS:
                state[moment] = torch.zeros_like(master.data)
        return {"param": master.data} | {moment: state[moment] for moment in MOMENTS}

    def _set_step(self, master: Tensor, step: int) -> None:
        self.zero.optimizer.state[master]["step"].fill_(step)


class WholeModelState(FlatState):
    """ZeRO-1 and 2: every rank computes with all weights and updates an equal stretch of each parameter group."""

    @property
    def masters(self) -> list[Tensor]:
        """See `FlatState`."""
        # With bf16 and stage 1 DeepSpeed takes another optimizer, whose names differ.
        name = "fp32_groups_flat_partition" if hasattr(self.zero, "bf16_groups") else "single_partition_of_fp32_groups"
        return list(getattr(self.zero, name))

    def _fragment(self, name: str, parameter: Any, shape: tuple[int, ...]) -> Fragment | None:
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        whole, flat = mapping.lp_fragment_address, mapping.hp_fragment_address
        return Fragment(name, shape, whole.start, whole.numel, mapping.param_group_index, flat.start)

    def take_over(self, partitions: list[Partition], step: int) -> None:
        """See `FlatState`."""
        for master in self.masters:
            self._set_step(master, step)
        self.zero.update_lp_params()


class ShardedModelState(FlatState):
    """ZeRO-3: every rank holds an equal stretch of each parameter, padded at the end of the parameter."""

    @property
    def masters(self) -> list[Tensor]:
        """See `FlatState`."""
        return list(self.zero.fp32_partitioned_groups_flat)

    def _fragment(self, name: str, parameter: Any, shape: tuple[int, ...]) -> Fragment | None:
        partition, offset, each = self.zero.grad_position[self.zero.get_param_id(parameter)]
        start = each * parameter.ds_zero_partition_rank
        return Fragment(name, shape, start, min(each, parameter.ds_numel - start), partition, offset)

    def partitions(self) -> list[Partition]:
        """See `FlatState`."""
        return [self._read(index) if self._on_disk(index) else self._live(m) for index, m in enumerate(self.masters)]

    def _on_disk(self, index: int) -> bool:
        return bool(self.zero._swappable_optimizer_subgroup(index))

    def _read(self, index: int) -> Partition:
        """A copy of what a disk holds, and zeros for moments that no step has made yet."""
        master = self.masters[index]
        self.zero._optimizer_states_and_gradient_swap_in(index)
        state = self.zero.optimizer.state[master]
        copies = {"param": master.data.clone()}
        copies |= {m: state[m].clone() if state else torch.zeros_like(copies["param"]) for m in MOMENTS}
        self.zero._release_swap_buffers(index)
        return copies

    def take_over(self, partitions: list[Partition], step: int) -> None:
        """See `FlatState`."""
        self.zero._partition_all_parameters()
        for index, (master, partition) in enumerate(zip(self.masters, partitions, strict=True)):
            if self._on_disk(index):
                self.zero._optimizer_states_and_gradient_swap_in(index)
                for kind, tensor in self._live(master).items():
                    tensor.copy_(partition[kind])
            self._set_step(master, step)
            self.zero._reassign_or_swap_out_partitioned_parameters(index)
            if self._on_disk(index):
                self.zero._optimizer_states_and_gradient_swap_out(index)
        if self.zero.persistent_parameters:  # small ones, which stay whole on every rank between the steps
            self.zero.persistent_parameters[0].all_gather(self.zero.persistent_parameters)


def flat_state(
    zero: Any, stage: int, parameters: Iterable[tuple[str, nn.Parameter]], shapes: Mapping[str, tuple[int, ...]]
) -> FlatState:
    """The state of a model whose optimizer DeepSpeed has taken over with this stage of ZeRO."""
    return (ShardedModelState if stage == 3 else WholeModelState)(zero, parameters, shapes)
