"""Bytes that a rank sends: every collective that it really starts is seen, and its formula applied."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch._C import _distributed_c10d as c10d
from torch.utils._python_dispatch import TorchDispatchMode

from launcher.errors import CheckFailed
from megamodel.parallel.mesh import AXES, Layout

FORMULAS: dict[str, Callable[[int, int], float]] = {
    "all_reduce": lambda size, ranks: 2 * size * (ranks - 1) / ranks,
    "all_gather": lambda size, ranks: size * (ranks - 1) / ranks,
    "reduce_scatter": lambda size, ranks: size * (ranks - 1) / ranks,
    "all_to_all": lambda size, ranks: size * (ranks - 1) / ranks,
    "broadcast": lambda size, ranks: size * (ranks - 1) / ranks,
    "send": lambda size, _: size,
}
"""Bytes that each of `ranks` sends at least, by a ring, for the whole tensor of `size` bytes: an all-gather's output, a
reduce-scatter's input, what an all-reduce adds up, what a rank hands to an all-to-all or sends to one other."""

_WHOLE = {
    "c10d::allreduce_": ("all_reduce", "tensors"),
    "c10d::allreduce_coalesced_": ("all_reduce", "tensors"),
    "c10d::_allgather_base_": ("all_gather", "output_tensor"),
    "c10d::allgather_": ("all_gather", "output_tensors"),
    "c10d::allgather_coalesced_": ("all_gather", "output_lists"),
    "c10d::allgather_into_tensor_coalesced_": ("all_gather", "outputs"),
    "c10d::_reduce_scatter_base_": ("reduce_scatter", "input_tensor"),
    "c10d::reduce_scatter_": ("reduce_scatter", "input_tensors"),
    "c10d::reduce_scatter_tensor_coalesced_": ("reduce_scatter", "inputs"),
    "c10d::reduce_": ("reduce_scatter", "tensors"),
    "c10d::alltoall_": ("all_to_all", "input_tensors"),
    "c10d::alltoall_base_": ("all_to_all", "input"),
    "c10d::gather_": ("all_gather", "output_tensors"),
    "c10d::scatter_": ("broadcast", "input_tensors"),
    "c10d::broadcast_": ("broadcast", "tensors"),
    "c10d::send": ("send", "tensors"),
    "_c10d_functional::isend": ("send", "tensor"),
    "_c10d_functional::all_reduce": ("all_reduce", "input"),
    "_c10d_functional::all_reduce_": ("all_reduce", "input"),
    "_c10d_functional::all_reduce_coalesced": ("all_reduce", "inputs"),
    "_c10d_functional::all_reduce_coalesced_": ("all_reduce", "inputs"),
    "_c10d_functional::reduce_scatter_tensor": ("reduce_scatter", "input"),
    "_c10d_functional::reduce_scatter_tensor_out": ("reduce_scatter", "input"),
    "_c10d_functional::reduce_scatter_tensor_coalesced": ("reduce_scatter", "inputs"),
    "_c10d_functional::all_to_all_single": ("all_to_all", "input"),
    "_c10d_functional::broadcast": ("broadcast", "input"),
    "_c10d_functional::broadcast_": ("broadcast", "input"),
}
"""Each operation's kind, and the argument that holds the whole tensor."""

_PARTS = {
    "_c10d_functional::all_gather_into_tensor": ("all_gather", "input"),
    "_c10d_functional::all_gather_into_tensor_out": ("all_gather", "input"),
    "_c10d_functional::all_gather_into_tensor_coalesced": ("all_gather", "inputs"),
}
"""The same where the argument is one rank's part of the whole."""


_SENDING_NOTHING = {
    "recv_",
    "recv_any_source_",
    "irecv",
    "barrier",
    "monitored_barrier_",
    "check_for_nan",
    "wait_tensor",
}


class WireCounter(TorchDispatchMode):
    """While active, counts what this rank sends, by axis of the layout and kind of collective.

    An axis is known from the ranks that take part: their places differ on it. A collective over several axes counts
    under their names joined by "+". The dispatcher sees all callers: Python, DTensor, DDP's reducer in C++.
    """

    def __init__(self, layout: Layout) -> None:
        super().__init__()
        self.layout = layout
        self.calls: dict[tuple[str, str], int] = defaultdict(int)
        self.bytes: dict[tuple[str, str], float] = defaultdict(float)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count the operation, then do it; what it does inside is not counted again."""
        kwargs = kwargs or {}
        name = func._schema.name
        space, _, operation = name.partition("::")
        if space in ("c10d", "_c10d_functional") and operation not in _SENDING_NOTHING:
            named = dict(zip((argument.name for argument in func._schema.arguments), args, strict=False)) | kwargs
            self._count(name, named)
        return func(*args, **kwargs)

    def _count(self, name: str, arguments: dict[str, Any]) -> None:
        if name not in _WHOLE | _PARTS:
            raise CheckFailed(f"{name} is a collective whose bytes nothing here knows how to count; add it to wire.py")
        kind, whole = (_WHOLE | _PARTS)[name]
        ranks = _members(arguments)
        if len(ranks) == 1:
            return
        size = sum(tensor.numel() * tensor.element_size() for tensor in _tensors(arguments[whole]))
        size *= len(ranks) if name in _PARTS else 1
        key = (self._axis(ranks), kind)
        self.calls[key] += 1
        self.bytes[key] += FORMULAS[kind](size, len(ranks))

    def _axis(self, ranks: Iterable[int]) -> str:
        places = [self.layout.place(rank) for rank in ranks]
        return "+".join(axis for axis in AXES if len({place[axis] for place in places}) > 1)

    def table(self) -> dict[str, dict[str, dict[str, float]]]:
        """By axis and kind: calls, and bytes sent."""
        found: dict[str, dict[str, dict[str, float]]] = {}
        for (axis, kind), calls in sorted(self.calls.items()):
            found.setdefault(axis, {})[kind] = {"calls": calls, "bytes": self.bytes[axis, kind]}
        return found


def _members(arguments: dict[str, Any]) -> list[int]:
    """The ranks that take part."""
    group: Any = arguments.get("process_group", arguments.get("group_name"))
    if "group_name" in arguments and not isinstance(group, dist.ProcessGroup):
        group = c10d._resolve_process_group(group)
    elif not isinstance(group, dist.ProcessGroup):
        group = dist.ProcessGroup.unbox(group)
    return dist.get_process_group_ranks(group)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    else:
        for item in value:
            yield from _tensors(item)
