"""Ray core tasks, one core each: on a Ray cluster that is there, or on one started on this machine for the while."""

import contextlib
import functools
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from data_pipeline.config import Execution
from data_pipeline.errors import DataError
from data_pipeline.execute.drivers.driver import Report, module_paths
from data_pipeline.execute.drivers.local import ONE_THREAD
from data_pipeline.execute.job import Job, patiently
from data_pipeline.execute.worker import failure, outcome

_TRIES = 3
"""A task whose worker or node is lost goes on elsewhere, from its last record; after so many losses the run ends."""
_SECONDS_TO_CONNECT = 10.0
_LONGEST_PLACE = 28
"""Characters of the temporary folder's path; in a longer one Ray's sockets have no room."""
_OBJECT_STORE = 80 * 2**20
"""Bytes; Ray takes no less, and nothing but the numbers of tasks goes through it."""
_ALONE = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # on Linux too it makes Ray listen on the loopback address only
    "RAY_AUTH_MODE": "token",
}
"""Environment of a Ray that serves this process alone; read when ray is imported."""


class OnRay:
    """As many tasks in flight as configured, or as the cluster has cores."""

    def __init__(self, execution: Execution) -> None:
        """Nothing is started or connected yet."""
        self._execution = execution
        self._stack = contextlib.ExitStack()
        self._ray: ModuleType | None = None
        self._name = secrets.token_hex(8)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *details: object) -> None:
        self._ray = None
        self._stack.close()

    def run(self, job: Job, stage: str, tasks: Sequence[int], report: Report) -> None:
        """Do the tasks. What a lost worker or node had begun another one goes on with; DataError after three losses."""
        ray = self._ray or self._connected()
        work, size = _remote(ray), self._size(ray)
        waiting, losses = list(reversed(tasks)), Counter[int]()
        flying: dict[Any, int] = {}
        try:
            while waiting or flying:
                while waiting and len(flying) < size:
                    index = waiting.pop()
                    flying[work.remote(self._name, str(job.root), str(Path.cwd()), stage, index)] = index
                for done in ray.wait(list(flying))[0]:
                    index = flying.pop(done)
                    if _done(ray, done, stage, index, losses):
                        report(index, job.tasks(stage)[index].size)
                    else:
                        waiting.append(index)
        except BaseException:
            _stop(ray, list(flying))
            raise
        patiently(lambda: job.finished(stage))

    def _connected(self) -> ModuleType:
        """Start Ray here, or connect to the cluster that the configuration names."""
        address = self._execution.ray_address
        self._stack.enter_context(contextlib.redirect_stdout(sys.stderr))  # where Ray tells of losses
        if address is None:
            os.environ.update(_ALONE)
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        ray = _imported()
        if not ray.is_initialized():
            try:
                self._connect(ray, address) if address else self._start(ray)
            except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
                where = f"at {address} cannot be reached" if address else "cannot be started on this machine"
                raise DataError(f"Ray {where}: {_first_line(error)}") from error
        self._ray = ray
        return ray

    def _start(self, ray: ModuleType) -> None:
        place = None if len(tempfile.gettempdir()) < _LONGEST_PLACE else "/tmp"
        aside = tempfile.TemporaryDirectory(prefix="mm-ray-", dir=place, ignore_cleanup_errors=True)
        folder = self._stack.enter_context(aside)
        self._stack.callback(ray.shutdown)
        with _uninterrupted():
            ray.init(
                address="local",
                num_cpus=self._execution.workers or len(os.sched_getaffinity(0)),
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=_OBJECT_STORE,
                _temp_dir=folder,
            )

    def _connect(self, ray: ModuleType, address: str) -> None:
        _refuse_unreachable(address)
        self._stack.callback(ray.shutdown)
        ray.init(address=address, log_to_driver=False, logging_level="ERROR")

    def _size(self, ray: ModuleType) -> int:
        size = self._execution.workers or int(ray.cluster_resources().get("CPU", 0))
        if size == 0:
            raise DataError("the Ray cluster has no CPU now; set execution.workers if it grows when it is asked.")
        return size


@contextlib.contextmanager
def _uninterrupted() -> Iterator[None]:
    """Ctrl-C counts when this is over: interrupted in its start, Ray ends the process by a segmentation fault."""
    if threading.current_thread() is not threading.main_thread():  # only that one is interrupted
        yield
        return
    came: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        signal.raise_signal(signal.SIGINT)


def _imported() -> ModuleType:
    try:
        import ray
    except ImportError:
        raise DataError("execution.driver is ray, which is not installed: pip install 'megamodel[ray]'.") from None
    return ray


def _refuse_unreachable(address: str) -> None:
    """OSError when nobody listens at HOST:PORT, for which Ray itself would wait for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_SECONDS_TO_CONNECT).close()


def _remote(ray: ModuleType) -> Any:
    """The function as Ray runs it: with one core, one thread, and this process's own modules."""
    environment = {**ONE_THREAD, "PYTHONPATH": os.pathsep.join(module_paths())}
    return ray.remote(num_cpus=1, max_retries=0, runtime_env={"env_vars": environment})(_do)


def _do(name: str, root: str, folder: str, stage: str, index: int) -> dict[str, Any]:
    """Runs in a worker of Ray, on any machine that sees the files."""
    os.chdir(folder)
    return outcome(_opened(name, root), stage, index)


@functools.lru_cache(maxsize=1)
def _opened(name: str, root: str) -> Job:
    """The job, read once a worker for each driver (whose name it is)."""
    return Job.open(Path(root))


def _done(ray: ModuleType, done: Any, stage: str, index: int, losses: Counter[int]) -> bool:
    """True when a task is done, False when it was lost and shall be tried again. DataError when it failed."""
    try:
        error = failure(ray.get(done))
    except ray.exceptions.RayError as lost:
        losses[index] += 1
        if losses[index] < _TRIES:
            return False
        raise DataError(
            f"Ray lost task {index} of the stage {stage} {_TRIES} times: {_first_line(lost)} "
            "Give the same command again: it goes on where it stopped."
        ) from lost
    if error:
        raise error
    return True


def _stop(ray: ModuleType, flying: list[Any]) -> None:
    """End the tasks that are at work; they can be gone on with."""
    with contextlib.suppress(Exception):
        for task in flying:
            ray.cancel(task, force=True)
        ray.wait(flying, num_returns=len(flying), timeout=10)


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
