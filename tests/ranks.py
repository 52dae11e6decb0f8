"""Start the ranks of a run within a fraction of a second: forked from a server that has imported everything already."""

import contextlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

_PRELOADED = ["launcher.train.loop", "launcher.train.start", "torch._inductor.compile_fx"]  # the last for DeepSpeed
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_PRELOADED)


def train_in_ranks(
    config: Path, *overrides: str, ranks: int = 1, code: int = 0, planted: Callable[[], None] | None = None
) -> str:
    """Train to the end as `ranks` processes of this machine; return their output. Rank 0's exit code must be `code`.

    `planted`, of a module's top level, is called first in every rank: it puts a mistake into the code.
    """
    with training_ranks(config, *overrides, ranks=ranks, planted=planted) as (processes, output):
        _wait(processes)
        text = output.read_text()
        assert processes[0].exitcode == code, text
        return text


@contextlib.contextmanager
def training_ranks(
    config: Path, *overrides: str, ranks: int = 1, planted: Callable[[], None] | None = None
) -> Iterator[tuple[list[Any], Path]]:
    """Ranks that train: their processes, and the file of their output. What still runs at the end is killed."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        processes = [
            _context.Process(target=_rank, args=(rank, ranks, folder, str(output), str(config), overrides, planted))
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        try:
            yield processes, output
        finally:
            for process in processes:
                process.kill()
                process.join()


def _rank(
    rank: int,
    ranks: int,
    folder: str,
    output: str,
    config: str,
    overrides: tuple[str, ...],
    planted: Callable[[], None] | None,
) -> None:
    import torch

    from launcher.train.start import main

    os.environ |= {
        "RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_RANK": str(rank),
        "MEGAMODEL_RENDEZVOUS": f"file://{folder}/store",
    }
    torch.set_num_threads(1)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if planted is not None:
        planted()
    code = main([config, *overrides])
    sys.stdout.flush()
    os._exit(code)


def in_ranks(function: Callable[..., Any], ranks: int, *arguments: Any) -> list[Any]:
    """Call `function(*arguments)`, of a module's top level, in every one of `ranks` gloo ranks; return the results.

    A rank that raises fails the test with its traceback. Results are made of tensors, numbers and strings.
    """
    import torch

    with tempfile.TemporaryDirectory() as folder:
        processes = [
            _context.Process(target=_call, args=(function, rank, ranks, folder, arguments)) for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        _wait(processes)
        errors = [path.read_text() for path in sorted(Path(folder).glob("error_*"))]
        assert not any(process.exitcode for process in processes), "\n".join(errors) or "a rank did not end in time"
        return [torch.load(Path(folder) / f"result_{rank}", weights_only=True) for rank in range(ranks)]


def _wait(processes: list[Any], seconds: float = 180, seconds_after_failure: float = 5) -> None:
    """Until all have ended, or one has failed: the others fail soon for the same reason, or wait for it in vain."""
    end, failed = time.monotonic() + seconds, False
    while running := [process for process in processes if process.exitcode is None]:
        if not failed and any(process.exitcode for process in processes):
            end, failed = time.monotonic() + seconds_after_failure, True
        if (left := end - time.monotonic()) <= 0:
            break
        wait([process.sentinel for process in running], left)
    for process in running:
        process.kill()
        process.join()


def _call(function: Callable[..., Any], rank: int, ranks: int, folder: str, arguments: tuple[Any, ...]) -> None:
    import traceback

    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=ranks)
    try:
        torch.save(function(*arguments), Path(folder) / f"result_{rank}")
    except BaseException:
        (Path(folder) / f"error_{rank}").write_text(f"rank {rank}\n{traceback.format_exc()}")
        os._exit(1)  # the others may be waiting for this rank, which must not wait for them
    dist.destroy_process_group()
