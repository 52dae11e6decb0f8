"""`python -m tools.bench.rank step|start ROUNDS OUT CONFIG [key=value ...]`: one rank that measures itself.

Alone it starts the ranks. Each writes what it found to OUT/rank_N.json.
"""

import gc
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from launcher.cluster.local import start_local
from launcher.cluster.ranks import Ranks, join, leave
from launcher.cluster.rendezvous import is_rank
from launcher.config import RunConfig
from launcher.engines import Engine, build_engine
from launcher.yaml_config import load
from tools.bench.memory import PeakMemory, held
from tools.bench.wire import WireCounter
from tools.bench.workload import LR

_WARMUP_STEPS = 2
_LOOK_SECONDS = 0.5


def main(arguments: Sequence[str]) -> int:
    """Be a rank, or start `engine.ranks` of them; return the exit code."""
    what, rounds, out, path, *overrides = arguments
    config = load(Path(path), RunConfig, overrides).value
    count = config.engine.ranks or 1
    if count > 1 and not is_rank():
        return start_local(arguments, count, Path(out) / "logs", "tools.bench.rank")
    ranks = join(config.engine)
    found = _look(config, ranks, what, int(rounds))
    (Path(out) / f"rank_{ranks.rank}.json").write_text(json.dumps(found))
    gc.collect()  # an engine that outlives its process groups may abort the process at its end
    leave()
    return 0


def _look(config: RunConfig, ranks: Ranks, what: str, rounds: int) -> dict[str, Any]:
    """Build the engine, and say what the start took, and what the rank holds or how its steps go."""
    memory = PeakMemory(ranks.device)
    started = time.perf_counter()
    engine = build_engine(config, ranks, eos_id=0)
    found: dict[str, Any] = {"seconds_to_start": time.perf_counter() - started, "peak_bytes": memory.bytes()}
    if what == "start":
        _meet(ranks)  # all stand for a moment, for whoever watches them together
        time.sleep(_LOOK_SECONDS)
        return found | held(engine)
    return found | measure(engine, memory, rounds)


def measure(engine: Engine, memory: PeakMemory, rounds: int) -> dict[str, Any]:
    """Median seconds of a step, this rank's peak memory, and what it sends in one step."""
    tokens = tokens_of_rank(engine.config, engine)
    target_tokens = engine.config.train.global_batch_size * engine.config.train.seq_len
    seconds = []
    for _ in range(_WARMUP_STEPS + rounds):
        _meet(engine.ranks)
        begun = time.perf_counter()
        float(engine.train_step(tokens, target_tokens, LR).loss)  # waits for the device
        seconds.append(time.perf_counter() - begun)
    peak = memory.bytes()
    # A compiled block cannot be watched; uncompiled it sends the same.
    with torch.compiler.set_stance("force_eager"), WireCounter(engine.layout) as wire:
        engine.train_step(tokens, target_tokens, LR)
    return {"seconds": statistics.median(seconds[_WARMUP_STEPS:]), "peak_bytes": peak, "sent": wire.table()}


def _meet(ranks: Ranks) -> None:
    if ranks.world_size > 1:
        dist.barrier()


def tokens_of_rank(config: RunConfig, engine: Engine) -> list[torch.Tensor]:
    """This rank's micro-batches of a random global batch that is the same in every layout."""
    train = config.train
    generator = torch.Generator().manual_seed(0)
    shape = (train.global_batch_size, train.seq_len + 1)
    batch = torch.randint(config.model.vocab_size, shape, generator=generator)
    mine = batch.chunk(engine.layout.data_ranks)[engine.layout.data_rank(engine.ranks.rank)]
    return list(mine.to(engine.ranks.device).split(train.micro_batch_size))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
