"""Start a training command as a user would, watch how far it is, and kill it without warning."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from launcher.errors import CheckFailed, UserError
from launcher.monitor.events import read_events, read_json_lines
from launcher.train.run_folder import RunFolder


class TrainingProcess:
    """`python -m launcher.train CONFIG ...` in a process of its own, its output in a file."""

    def __init__(self, config: Path, overrides: Sequence[str], run_dir: Path, log: Path) -> None:
        self.folder, self.log = RunFolder(run_dir), log
        log.parent.mkdir(parents=True, exist_ok=True)
        self._starts_before = self._starts()
        # The ranks' rendezvous must be their own, also when this process is itself a rank of something.
        launcher_variables = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
        environment = {k: v for k, v in os.environ.items() if k not in launcher_variables}
        command = [sys.executable, "-m", "launcher.train", str(config), *overrides, f"run_dir={run_dir}"]
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    def wait(self) -> None:
        """Wait for a good end; UserError with what was said of a mistake in the settings, CheckFailed for any other."""
        try:
            code = self.process.wait()
        except BaseException:
            self.process.terminate()
            raise
        if code == 2:
            raise UserError(self._told())
        if code:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-12:])
            raise CheckFailed(f"training ended with exit code {code}; the end of {self.log}:\n{tail}")

    def _told(self) -> str:
        """What the command said last, from the word that begins its messages."""
        log = self.log.read_text(errors="replace").strip()
        return log.rpartition("error: ")[2]

    def kill_at(self, step: int, chance: random.Random) -> int | None:
        """SIGKILL the command or one of its ranks at a random moment of the steps that follow `step`.

        Returns the last step written, or None when the training ended before the kill.
        """
        while self._starts() == self._starts_before or self.last_step() < step:
            if self.process.poll() is not None:
                self.wait()
                return None
            time.sleep(0.005)
        time.sleep(chance.random() * 3 * self._step_seconds())
        victims = [self.process.pid, *_children(self.process.pid)]
        try:
            os.kill(chance.choice(victims), signal.SIGKILL)
        except ProcessLookupError:
            return None
        self.process.wait()
        return self.last_step()

    def _starts(self) -> int:
        """How often training has begun or gone on in this folder."""
        return sum(event["event"] in ("started", "resumed") for event in read_events(self.folder.events))

    def _step_seconds(self) -> float:
        lines = read_json_lines(self.folder.metrics)
        return float(lines[-1]["step_seconds"]) if lines else 0.1

    def last_step(self) -> int:
        """The newest step in the metrics, 0 when there is none."""
        lines = read_json_lines(self.folder.metrics)
        return lines[-1]["step"] if lines else 0


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
