"""Start the ranks of a run within a fraction of a second: forked from a server that has imported everything already."""

import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

_PRELOADED = ["launcher.train.loop", "launcher.train.start"]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(_PRELOADED)


def train_in_ranks(config: Path, *overrides: str, ranks: int = 1, code: int = 0) -> str:
    """Train to the end as `ranks` processes of this machine; return their output. Rank 0's exit code must be `code`."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "output"
        processes = [
            _context.Process(target=_rank, args=(rank, ranks, folder, str(output), str(config), overrides))
            for rank in range(ranks)
        ]
        for process in processes:
            process.start()
        for process in processes:
            process.join(180)
        text = output.read_text()
        assert processes[0].exitcode == code, text
        return text


def _rank(rank: int, ranks: int, folder: str, output: str, config: str, overrides: tuple[str, ...]) -> None:
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
    code = main([config, *overrides])
    sys.stdout.flush()
    os._exit(code)
