"""Taking over a run's folder: alone, from the newest good checkpoint, with nothing left of what was lost."""

import fcntl
import json
import os
import shutil
from pathlib import Path
from typing import Any, TextIO

from launcher.config import RunConfig
from launcher.errors import UserError
from launcher.monitor.events import EventLog, read_json_lines
from launcher.train.run_folder import RunFolder, load_config
from launcher.yaml_config import dump
from megamodel.checkpoint import find_newest_good, quarantine, read_manifest, remove_leftovers

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
    "tokenizer": "data.tokenizer (digest of tokenizer.json)",
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
    _copy_tokenizer(config.data.tokenizer, folder)
    lost = _rewind(folder.metrics, start_step)
    events.write("resumed" if start_step else "started", step=start_step, steps_lost=lost)


def _copy_tokenizer(source: Path, folder: RunFolder) -> None:
    """Put the run's tokenizer into its folder; one that an attempt without a checkpoint left there may be another."""
    if source.resolve() == folder.tokenizer.resolve():
        return
    copy = folder.path / "tokenizer.part"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(source, copy)
    shutil.rmtree(folder.tokenizer, ignore_errors=True)
    copy.rename(folder.tokenizer)


def _changes(before: RunConfig, after: RunConfig) -> dict[str, list[Any]]:
    """Dotted names of the settings that differ, each with its old and new value."""
    old, new = (_flat(config.model_dump(mode="json")) for config in (before, after))
    return {name: [old.get(name), new.get(name)] for name in old | new if old.get(name) != new.get(name)}


def _flat(group: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in group.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def _rewind(path: Path, step: int) -> int:
    """Move the lines after `step`, which this process will write again, to metrics.lost.jsonl; return how many."""
    lines = read_json_lines(path)
    kept = [line for line in lines if line.get("step", 0) <= step]
    with path.with_name("metrics.lost.jsonl").open("a", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines if line not in kept)
    aside = path.with_name(f"{path.name}.part")
    with aside.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in kept)
        file.flush()
        os.fsync(file.fileno())
    aside.rename(path)
    return len(lines) - len(kept)
