"""Who this process is among the others, and its connection to them."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

import torch
import torch.distributed as dist

from data_pipeline.errors import DataError
from launcher.cluster.rendezvous import RENDEZVOUS
from launcher.config import EngineConfig
from launcher.errors import CheckFailed, UserError, os_error_sentence
from megamodel.errors import ModelError

T = TypeVar("T")


@dataclass(frozen=True)
class Ranks:
    """This process's place: its rank among world_size, and its device."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """True on the rank that writes what is written once."""
        return self.rank == 0

    def on_first(self, work: Callable[[], T]) -> T:
        """Run `work` on rank 0 and give its result, or its error, to every rank."""
        outcome: list[_Outcome[T] | None] = [_Outcome.of(work) if self.first else None]
        if self.world_size > 1:
            dist.broadcast_object_list(outcome, src=0)
        assert outcome[0] is not None, "rank 0 has an outcome"
        return outcome[0].unwrap()

    def on_all(self, work: Callable[[], T]) -> list[T]:
        """Run `work` on every rank and give the results of all, by rank, or the first rank's error, to every rank."""
        outcome = _Outcome.of(work)
        outcomes = [outcome] * self.world_size
        if self.world_size > 1:
            dist.all_gather_object(outcomes, outcome)
        return [outcome.unwrap(f"rank {rank}: " if rank else "") for rank, outcome in enumerate(outcomes)]


@dataclass(frozen=True)
class _Outcome(Generic[T]):
    """What some work gave: a result, or the sentence and exit code of an error that all ranks must know of."""

    result: T | None = None
    error: str | None = None
    code: int = 0

    @classmethod
    def of(cls, work: Callable[[], T]) -> "_Outcome[T]":
        try:
            return cls(work())
        except (UserError, DataError, ModelError) as error:
            return cls(error=str(error), code=getattr(error, "exit_code", 2))
        except OSError as error:
            return cls(error=os_error_sentence(error), code=2)

    def unwrap(self, who: str = "") -> T:
        if self.error is not None:
            raise (CheckFailed if self.code == 1 else UserError)(who + self.error)
        return self.result  # type: ignore[return-value]


def join(engine: EngineConfig) -> Ranks:
    """Connect to the other ranks and choose the device. The engine `single` connects to nobody."""
    rank, world_size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device = choose_device(engine, int(os.environ.get("LOCAL_RANK", 0)), local_ranks)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if engine.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if engine.name != "single":
        _connect(engine, rank, world_size, device)
    elif world_size > 1:
        raise UserError(f"engine.name is single, but {world_size} ranks were started; use ddp or fsdp, or one process")
    return Ranks(rank, world_size, device)


def _connect(engine: EngineConfig, rank: int, world_size: int, device: torch.device) -> None:
    # A process alone has nobody to meet, so it needs no address.
    alone = "RANK" not in os.environ
    method = None if alone else os.environ.get(RENDEZVOUS, "env://")
    dist.init_process_group(
        backend="cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
        init_method=method,
        store=dist.HashStore() if alone else None,
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=engine.timeout_seconds),
        device_id=device if device.type == "cuda" else None,
    )


def lost_others(error: RuntimeError) -> bool:
    """True when a collective failed because another rank has gone or does not answer."""
    signs = ("gloo", "NCCL", "Connection closed", "Connection reset", "Timed out", "Broken pipe")
    return isinstance(error, dist.DistError) or any(sign in str(error) for sign in signs)


def leave() -> None:
    """Disconnect from the other ranks."""
    if dist.is_initialized():
        dist.destroy_process_group()


def choose_device(engine: EngineConfig, local_rank: int, local_ranks: int) -> torch.device:
    """The device for one of this machine's ranks: with engine.device=auto, GPUs when there is one for each."""
    available = torch.cuda.is_available()
    if engine.device == "auto" and local_ranks > torch.cuda.device_count():
        return torch.device("cpu")
    if engine.device == "cuda" and not available:
        raise UserError("engine.device is cuda, but torch sees no GPU here; set engine.device to auto or cpu")
    if engine.device == "cpu":
        return torch.device("cpu")
    if local_rank >= torch.cuda.device_count():
        raise UserError(
            f"local rank {local_rank} has no GPU of its own: this machine has {torch.cuda.device_count()}; "
            "set engine.ranks to that, or engine.device to cpu"
        )
    return torch.device("cuda", local_rank)


def compute_dtype(engine: EngineConfig, device: torch.device) -> torch.dtype:
    """Type of the activations: as configured, or bf16 on a GPU and fp32 on a CPU."""
    if engine.precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return torch.bfloat16 if engine.precision == "bf16" else torch.float32
