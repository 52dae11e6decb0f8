"""What a rank holds when training starts: measured on ranks of this machine, or traced for one rank of any number."""

import os
import tempfile
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from launcher.cluster.ranks import Ranks
from launcher.config import RunConfig
from launcher.engines.build import engine_class
from launcher.engines.torch_engine import TorchEngine
from launcher.errors import UserError
from megamodel.gpt import GPT
from megamodel.parallel.shard import local_part
from tools.bench.layouts import problems, run_ranks
from tools.bench.memory import held
from tools.bench.processes import descendants, proportional

_SAMPLE_SECONDS = 0.05


def trace_start(config: RunConfig, ranks: int, rank: int) -> dict[str, Any]:
    """Build the engine of one rank of `ranks` in a process group that is not there, with tensors that have no memory.

    Everything runs as it does when training starts, so that what is allocated is counted, not computed. Returns bytes:
    parameters, gradients and moments that this rank holds, the most that was allocated at once until the parameters
    stood (`peak_bytes`), and the largest whole parameter.
    """
    if refused := "; ".join(problems(config, ranks)):
        raise UserError(refused)
    engine_type = engine_class(config)
    if not issubclass(engine_type, TorchEngine):
        raise UserError(f"engine.name={config.engine.name} cannot be traced, for it needs real ranks; use fsdp")
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=ranks)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True), Allocations() as allocations:
            engine = _without_fakes(engine_type)(config, Ranks(rank, ranks, torch.device("cpu")))
            peak = allocations.peak
            return {"layout": str(engine.layout), "rank": rank, "peak_bytes": peak} | held(engine)
    finally:
        dist.destroy_process_group()


def _without_fakes(engine: type[TorchEngine]) -> type[TorchEngine]:
    """The engine, its mesh and the parts on the meta device made of ordinary tensors, as both must be."""

    class Traced(engine):  # type: ignore[valid-type, misc]
        def _build_parts(self) -> list[GPT]:
            with unset_fake_temporarily():
                return super()._build_parts()

    return Traced


class Allocations(TorchDispatchMode):
    """While active, counts the bytes of all storages that operations make, but on the meta device, until freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do the operation; look at the storages of what it made."""
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and not tensor.is_meta:
                self._see(local_part(tensor).untyped_storage())
        return result

    def _see(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._known:
            self._known.add(storage)
            weakref.finalize(storage, self._freed, storage.nbytes())
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)

    def _freed(self, size: int) -> None:
        self.now -= size


def measure_start(path: Path, config: RunConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Start `engine.ranks` real ranks of the configuration and watch the memory of all of them together.

    Returns `total_bytes`, the most that the ranks took at once with interpreters and libraries (their PSS, which counts
    shared pages once, looked at every twentieth of a second), and what each rank found: see `tools.bench.rank`.
    """
    ranks = config.engine.ranks or 1
    if refused := "; ".join(problems(config, ranks)):
        raise UserError(refused)
    with tempfile.TemporaryDirectory(prefix="megamodel-bench-") as folder, Watch() as watch:
        found = run_ranks("start", 0, path, overrides, ranks, Path(folder))
    return {"total_bytes": watch.most, "ranks": found}


class Watch:
    """Sums up, in a thread, the memory of all processes that descend from this one; `most` is the largest sum."""

    def __init__(self) -> None:
        self.most = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._end.wait(_SAMPLE_SECONDS):
            self.most = max(self.most, sum(map(proportional, descendants(os.getpid()))))
