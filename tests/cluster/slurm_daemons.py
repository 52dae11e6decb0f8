"""A real Slurm on this machine: munged, slurmctld and slurmd for each node, in a folder of their own."""

import contextlib
import ctypes
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "sinfo")
_PATH = f"{os.environ['PATH']}:/usr/sbin:/sbin"
_SECONDS = 20.0
_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
MpiDefault=none
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=2
{nodes}
PartitionName=cpu Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Why no Slurm can be started here; empty when one can."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=_PATH)]
    if missing:
        return f"{missing[0]} is not installed (on Debian: apt install slurm-wlm munge)"
    return "" if os.geteuid() == 0 else "Slurm's daemons need root"


@contextlib.contextmanager
def slurm(folder: Path, nodes: int = 2, cpus: int = 2) -> Iterator[dict[str, str]]:
    """Start the daemons; yields the environment in which sbatch and its like find them. All are gone at the end.

    `folder` needs a short path: Unix sockets lie in it.
    """
    conf = folder / "slurm.conf"
    environment = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(conf)}
    _configure(conf, nodes, cpus)
    commands = [["slurmctld", "-D"], *(["slurmd", "-D", "-N", f"n{i}"] for i in range(1, nodes + 1))]
    with contextlib.ExitStack() as stack:
        stack.callback(_end_steps, folder)
        stack.enter_context(_running(_munged(folder), environment, folder))
        _until((folder / "munge.socket").exists, "munged", folder)
        for command in commands:
            stack.enter_context(_running(command, environment, folder))
        _until(lambda: _idle(environment) == nodes, "Slurm", folder)
        yield environment


def _configure(conf: Path, nodes: int, cpus: int) -> None:
    host, ports = socket.gethostname(), _free_ports(nodes + 1)
    lines = [
        f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[i]} CPUs={cpus} RealMemory=8000"
        for i in range(1, nodes + 1)
    ]
    (conf.parent / "state").mkdir()
    conf.write_text(_CONF.format(host=host, ports=ports, folder=conf.parent, nodes="\n".join(lines)))


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _munged(folder: Path) -> list[str]:
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)
    places = {"key-file": key, "socket": folder / "munge.socket", "pid-file": folder / "munged.pid"}
    places |= {"log-file": folder / "munged.log", "seed-file": folder / "munged.seed"}
    return ["munged", "--foreground", "--force", *(f"--{name}={path}" for name, path in places.items())]


@contextlib.contextmanager
def _running(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    """Run a daemon; it dies with this process, and at the end."""
    with (folder / "daemons.out").open("ab") as out:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, preexec_fn=_die_with_parent
        )
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _die_with_parent() -> None:
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGKILL)


def _until(ready: Callable[[], bool], what: str, folder: Path) -> None:
    end = time.monotonic() + _SECONDS
    while not ready():
        if time.monotonic() > end:
            logs = "\n".join(path.read_text(errors="replace")[-2000:] for path in folder.glob("*.log"))
            raise RuntimeError(f"{what} did not start within {_SECONDS:.0f} seconds:\n{logs}")
        time.sleep(0.1)


def _idle(environment: dict[str, str]) -> int:
    done = subprocess.run(
        ["sinfo", "--noheader", "--Node", "--format=%T"], env=environment, capture_output=True, text=True, check=False
    )
    return done.stdout.split().count("idle")


def _end_steps(folder: Path) -> None:
    """Kill what jobs left running: slurmstepd, whose command line names the spool folder, and its children."""
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):
            if f"SLURM_CONF={folder}/slurm.conf".encode() in path.read_bytes() and int(path.parent.name) != os.getpid():
                os.kill(int(path.parent.name), signal.SIGKILL)
