"""Start a run's ranks on this machine, watch them, and end them together."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from launcher.cluster.rendezvous import LOST_OTHERS, RENDEZVOUS

_SAME_REASON_SECONDS = 0.5


def start_local(arguments: Sequence[str], ranks: int, logs: Path, module: str = "launcher.train") -> int:
    """Run `python -m MODULE ARGUMENTS` on `ranks` processes; return the exit code for the command.

    Rank 0 writes to this terminal, the others to files in `logs`. When one rank fails the rest are ended, and what the
    failed one last said is shown. SIGTERM and SIGINT are passed on; if this process is killed, the ranks die with it.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="megamodel-") as meeting_place:
        store = Path(meeting_place) / "store"
        processes = [_start([module, *arguments], rank, ranks, store, logs) for rank in range(ranks)]
        with _passing_signals_on(processes):
            failed = _watch(processes)
        if failed is None:
            return 0
        _end(processes)
        return _explain(failed, processes[failed].returncode, logs)


def _start(command: Sequence[str], rank: int, ranks: int, store: Path, logs: Path) -> "subprocess.Popen[bytes]":
    threads = str(max(1, (os.cpu_count() or 1) // ranks))
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks}
    environment = {
        **os.environ,
        **{name: str(value) for name, value in places.items()},
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads),
        RENDEZVOUS: f"file://{store}",
    }
    with contextlib.ExitStack() as stack:
        output = None if rank == 0 else stack.enter_context((logs / f"rank_{rank}.log").open("ab"))
        error = None if rank == 0 else subprocess.STDOUT
        return subprocess.Popen(
            [sys.executable, "-m", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=error,
            process_group=0,
            preexec_fn=_die_with_parent,
        )


def _die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends: an orphaned rank would go on writing into the run."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _watch(processes: "Sequence[subprocess.Popen[bytes]]") -> int | None:
    """Wait for all; return the first rank that failed, or None when every one ended well."""
    while True:
        codes = [process.poll() for process in processes]
        if any(codes):
            # Ranks that fail for the same reason do so together, and the first one says it on this terminal.
            time.sleep(_SAME_REASON_SECONDS)
            failed = [rank for rank, process in enumerate(processes) if process.poll()]
            return next((rank for rank in failed if processes[rank].returncode != LOST_OTHERS), failed[0])
        if all(code == 0 for code in codes):
            return None
        time.sleep(0.05)


@contextlib.contextmanager
def _passing_signals_on(processes: "Sequence[subprocess.Popen[bytes]]") -> Iterator[None]:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.signal(number, lambda received, _: _signal_all(processes, received)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def _signal_all(processes: "Sequence[subprocess.Popen[bytes]]", number: int) -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(number)


def _end(processes: "Sequence[subprocess.Popen[bytes]]") -> None:
    """Kill what still runs: without the failed rank nothing it does can be completed."""
    _signal_all(processes, signal.SIGKILL)
    for process in processes:
        process.wait()


def _explain(rank: int, code: int, logs: Path) -> int:
    if rank > 0:
        log = logs / f"rank_{rank}.log"
        tail = log.read_text(errors="replace").splitlines()[-15:]
        print("\n".join(tail), file=sys.stderr)
        print(f"(the end of {log})", file=sys.stderr)
    if code < 0:
        print(
            f"error: rank {rank} was ended by {signal.Signals(-code).name}; the other ranks were stopped. "
            "Run the same command again: it goes on from the newest good checkpoint.",
            file=sys.stderr,
        )
        return 1
    if code != 2:
        print(f"error: rank {rank} failed (exit code {code}); the other ranks were stopped.", file=sys.stderr)
    return 2 if code == 2 else 1
