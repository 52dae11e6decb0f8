"""What saving and loading take beside the state itself: measured as resident memory of real ranks."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from launcher.cluster.ranks import Ranks
from launcher.config import RunConfig
from launcher.engines import build_engine
from launcher.yaml_config import load
from megamodel.checkpoint import CheckpointWriter, checkpoint_name, load_into
from megamodel.optim.adamw import state_shapes
from megamodel.parallel.shard import Holding
from tests.conftest import LLAMA
from tests.ranks import in_ranks

LARGE = {**LLAMA, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4}
"""13 M parameters: 157 MB of fp32 weights and moments."""
SLACK = 6e6
"""Bytes for all that is not tensors: the manifest, threads, buffers of the file system."""


def _resident(field: str) -> int:
    """Bytes: VmRSS now, VmHWM at the peak since it was reset."""
    return int(Path("/proc/self/status").read_text().split(f"{field}:")[1].split()[0]) * 1024


def _reset_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def _extra(work: Callable[[], object]) -> int:
    """Bytes of resident memory that `work` takes at its peak beside what there was."""
    _reset_peak()
    before = _resident("VmRSS")
    work()
    return _resident("VmHWM") - before


Shapes = dict[str, tuple[int, ...]]


def _write(state: dict[str, Holding], shapes: Shapes, step: int, folder: Path, ranks: Ranks) -> None:
    writer = CheckpointWriter(
        folder,
        rank=ranks.rank,
        world_size=ranks.world_size,
        attempt="a",
        keep=9,
        permanent_every_steps=None,
        optimizer="adamw",
        model={},
        data_order={},
        shapes=shapes,
        on_saved=lambda saved: None,
    )
    writer.save(step, state)
    writer.wait()
    dist.barrier()


def _save_and_load(path: str, overrides: list[str], folder: str) -> list[int]:
    """[extra bytes of a save, bytes written, extra bytes of a load, bytes held] of this rank."""
    ranks = Ranks(dist.get_rank(), dist.get_world_size(), torch.device("cpu"))
    config = load(Path(path), RunConfig, overrides).value
    engine = build_engine(config, ranks)
    state = engine.state()
    shapes = state_shapes(config.model)
    small = {name: holding for name, holding in state.items() if "norm" in name}
    small_shapes = {name: shape for name, shape in shapes.items() if "norm" in name}
    _write(small, small_shapes, 1, Path(folder), ranks)  # threads, imports and the like are not to be measured
    load_into(Path(folder) / checkpoint_name(1), small, small_shapes)
    saving = _extra(lambda: _write(state, shapes, 2, Path(folder), ranks))
    checkpoint = Path(folder) / checkpoint_name(2)
    written = (checkpoint / f"rank_{ranks.rank:05d}.safetensors").stat().st_size
    held = sum(piece.nbytes for holding in state.values() for _, piece in holding.pieces)
    loading = _extra(lambda: load_into(checkpoint, state, shapes))
    dist.barrier()
    return [saving, written, loading, held]


@pytest.mark.parametrize(
    ("ranks", "overrides"),
    [
        (2, ["engine.name=fsdp"]),
        (4, ["engine.name=fsdp"]),
        (2, ["engine.name=ddp"]),
        (2, ["engine.name=fsdp", "parallel.tp=2"]),
        (2, ["engine.name=fsdp", "parallel.pp=2"]),
        (2, ["engine.name=deepspeed", "engine.zero_stage=2"]),
        (2, ["engine.name=deepspeed", "engine.zero_stage=3"]),
    ],
    ids=["fsdp x 2", "fsdp x 4", "ddp x 2", "tp x 2", "pp x 2", "zero2 x 2", "zero3 x 2"],
)
def test_a_save_takes_one_copy_of_what_the_rank_writes(tiny_run, tmp_path, ranks, overrides):
    measured = in_ranks(_save_and_load, ranks, str(tiny_run(model=LARGE)), overrides, str(tmp_path / "saved"))
    for rank, (saving, written, loading, held) in enumerate(measured):
        assert written > 30e6, "too little to measure"
        assert 0.5 * written < saving < 1.05 * written + SLACK, (rank, saving, written)
        assert loading < 1.05 * held + SLACK, (rank, loading, held)
