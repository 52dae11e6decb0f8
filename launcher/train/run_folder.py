"""The folder that a run leaves: what is where, and what is true when a process takes it over."""

import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from launcher.config import RunConfig
from launcher.errors import UserError
from launcher.monitor.events import EventLog
from launcher.monitor.metrics import rewind
from launcher.yaml_config import dump, load
from megamodel.checkpoint import find_newest_good, quarantine, read_manifest, remove_leftovers


@dataclass(frozen=True)
class RunFolder:
    """Names of the files in a run's folder."""

    path: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "config.yaml"

    @property
    def metrics(self) -> Path:
        """One line a step."""
        return self.path / "metrics.jsonl"

    @property
    def events(self) -> Path:
        """One line for everything else that happened."""
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """One folder a checkpoint."""
        return self.path / "checkpoints"

    @property
    def tokenizer(self) -> Path:
        """A copy of the tokenizer, so that the run is whole without its data."""
        return self.path / "tokenizer"

    @property
    def tensorboard(self) -> Path:
        """TensorBoard's files."""
        return self.path / "tensorboard"

    @property
    def logs(self) -> Path:
        """Output of the ranks other than the first."""
        return self.path / "logs"


def load_config(run_dir: Path | str) -> RunConfig:
    """The configuration that a run was started with; UserError when the folder is not a run's."""
    folder = RunFolder(Path(run_dir))
    if not folder.config.is_file():
        raise UserError(f"{run_dir} is not a run folder: it has no config.yaml. Give the run_dir of a training run.")
    return load(folder.config, RunConfig).value


_locks: list[TextIO] = []
"""Open lock files of this process; they are released when it ends, however it ends."""


def claim(folder: RunFolder) -> None:
    """Make this process the only one that writes the run; UserError when another one does."""
    folder.path.mkdir(parents=True, exist_ok=True)
    lock = (folder.path / ".lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        raise UserError(
            f"{folder.path}: another process ({lock.read().strip() or 'unknown'}) is training in this run folder; "
            "wait for it, stop it, or set another run_dir"
        ) from None
    lock.truncate(0)
    lock.write(f"pid {os.getpid()}")
    lock.flush()
    _locks.append(lock)


def find_start(folder: RunFolder, events: EventLog) -> Path | None:
    """The newest checkpoint that verifies; newer ones that do not are moved aside, and said so in the events."""
    for leftover in remove_leftovers(folder.checkpoints):
        events.write("leftover_removed", path=leftover)
    checkpoint, bad = find_newest_good(folder.checkpoints)
    for path, faults in bad:
        moved = quarantine(path)
        events.write("checkpoint_quarantined", path=path, moved_to=moved, faults=faults)
        print(f"checkpoint {path.name} is damaged and was moved to {moved.name}: {faults[0]}", flush=True)
    if bad and checkpoint is None:
        print("no good checkpoint is left: training starts from the beginning", flush=True)
    return checkpoint


def check_same_run(checkpoint: Path, model: dict[str, Any], data_order: dict[str, Any]) -> None:
    """Refuse to go on from a checkpoint when a setting has changed that would change the model or the data order."""
    manifest = read_manifest(checkpoint)
    for group, now, then in (("model", model, manifest.model), ("data", data_order, manifest.data_order)):
        for name in sorted(now.keys() | then.keys()):
            if now.get(name) != then.get(name):
                raise UserError(
                    f"{checkpoint}: {_SETTINGS.get(name, f'{group}.{name}')} was {then.get(name)} when this checkpoint "
                    f"was written and is {now.get(name)} now, so the run would not go on as the same training. "
                    "Set it back, or use another run_dir."
                )


_SETTINGS = {
    "seed": "seed",
    "seq_len": "train.seq_len",
    "global_batch_size": "train.global_batch_size",
    "sources": "data.sources (digest and weight of each)",
}


def write_start(folder: RunFolder, config: RunConfig, start_step: int, events: EventLog) -> None:
    """Bring the folder to the state of `start_step`: config and tokenizer stored, metrics of lost steps dropped."""
    text = dump(config)
    if folder.config.exists() and (changes := _changes(load_config(folder.path), config)):
        events.write("config_changed", changes=changes)
    aside = folder.config.with_name("config.yaml.part")
    aside.write_text(text)
    aside.rename(folder.config)
    if not folder.tokenizer.exists():
        copy = folder.path / "tokenizer.part"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(config.data.tokenizer, copy)
        copy.rename(folder.tokenizer)
    lost = rewind(folder.metrics, start_step)
    events.write("resumed" if start_step else "started", step=start_step, steps_lost=lost)


def _changes(before: RunConfig, after: RunConfig) -> dict[str, list[Any]]:
    """Dotted names of the settings that differ, each with its old and new value."""
    old, new = (_flat(config.model_dump(mode="json")) for config in (before, after))
    return {name: [old.get(name), new.get(name)] for name in old | new if old.get(name) != new.get(name)}


def _flat(group: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in group.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
