"""Taking over a run's folder: alone, from the newest good checkpoint, with nothing left of what was lost."""

import contextlib
import fcntl
import json
import os
import secrets
import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from data_pipeline.errors import DataError
from data_pipeline.shards import ShardSet
from data_pipeline.tokenizer import Tokenizer
from launcher.cluster.ranks import Ranks
from launcher.config import RunConfig
from launcher.errors import UserError
from launcher.monitor.events import EventLog, read_events, read_json_lines
from launcher.train.data_order import in_words, past, rearranged
from launcher.train.examine import shared_faults
from launcher.train.run_folder import RunFolder, load_config
from launcher.yaml_config import dump
from megamodel.checkpoint import (
    WEIGHTS_ONLY,
    Manifest,
    list_checkpoints,
    quarantine,
    read_manifest,
    remove_leftovers,
)

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


@dataclass(frozen=True)
class Start:
    """Where a run goes on from: every rank knows the same."""

    attempt: str
    """A word that no other start of the run has."""
    checkpoint: Path | None
    """None: from the beginning."""
    reset_optimizer: bool = False
    """Take the weights alone."""


def take_over(config: RunConfig, ranks: Ranks, optimizer: str, data_order: dict[str, Any]) -> Start:
    """Claim the run's folder on rank 0 and find, with all ranks, the checkpoint to go on from.

    Raises UserError on every rank when another process has the folder, or the checkpoint is of another training.

    Args:
        config: the run.
        ranks: this process among the others.
        optimizer: kind of the optimizer whose state the engine can take up.
        data_order: what the samples of each step follow from.
    """
    folder = RunFolder(config.run_dir)
    events = EventLog(folder.events if ranks.first else None)
    attempt = ranks.on_first(lambda: _claim(folder, events))
    checkpoint = find_start(folder, events, ranks, seconds=config.engine.timeout_seconds / 4)
    if checkpoint is None:
        return Start(attempt, None)
    return ranks.on_first(lambda: Start(attempt, checkpoint, _check(checkpoint, config, optimizer, data_order)))


def _claim(folder: RunFolder, events: EventLog) -> str:
    claim(folder)
    for leftover in remove_leftovers(folder.checkpoints):
        events.write("leftover_removed", path=leftover)
    return secrets.token_hex(4)


def find_start(folder: RunFolder, events: EventLog, ranks: Ranks, seconds: float) -> Path | None:
    """The newest checkpoint that verifies; newer ones that do not are moved aside, and said so in the events.

    All ranks read, each its share, and meet at least every `seconds`; rank 0 alone moves.
    """
    found = ranks.on_first(lambda: [path for _, path in list_checkpoints(folder.checkpoints)])
    for checkpoint in reversed(found):
        faults = shared_faults(checkpoint, ranks, seconds)
        if not faults:
            return checkpoint
        ranks.on_first(partial(_put_aside, checkpoint, faults, events))
    ranks.on_first(lambda: _begin_again(folder, bool(found)))
    return None


def _begin_again(folder: RunFolder, had_checkpoints: bool) -> None:
    """A run's beginning is drawn again, the same to the bit; that of an imported one is not ours to draw."""
    if any(event["event"] == "imported" for event in read_events(folder.events)):
        raise UserError(
            f"{folder.checkpoints}: no good checkpoint is left of this imported run, and its weights cannot be drawn "
            "anew. Import the source again, or use another run_dir"
        )
    if had_checkpoints:
        print("no good checkpoint is left: training starts from the beginning", flush=True)


def _put_aside(checkpoint: Path, faults: list[str], events: EventLog) -> None:
    moved = quarantine(checkpoint)
    events.write("checkpoint_quarantined", path=checkpoint, moved_to=moved, faults=faults)
    print(f"checkpoint {checkpoint.name} is damaged and was moved to {moved.name}: {faults[0]}", flush=True)


def _check(checkpoint: Path, config: RunConfig, optimizer: str, data_order: dict[str, Any]) -> bool:
    """Refuse a checkpoint of another training; True when its optimizer state is to be left behind."""
    manifest = read_manifest(checkpoint)
    check_same_run(checkpoint, manifest, config, data_order)
    return must_reset(checkpoint, manifest, optimizer, config.checkpoint.reset_optimizer)


def must_reset(checkpoint: Path, manifest: Manifest, optimizer: str, allowed: bool) -> bool:
    """True when a checkpoint has no state for an optimizer of this kind; UserError when that is not `allowed`.

    What a run saves after such a reset is of its own kind, so that no later start resets again.
    """
    if manifest.optimizer == optimizer:
        return False
    if allowed:
        return True
    has = "weights only" if manifest.optimizer == WEIGHTS_ONLY else f"the state of the optimizer {manifest.optimizer}"
    raise UserError(
        f"{checkpoint}: holds {has}, and this run's optimizer is {optimizer}. To go on from its weights with a fresh "
        "optimizer state, set checkpoint.reset_optimizer=true."
    )


_UNSET = {"packing": "contiguous", "fim": "off"}
"""What a setting of the data order is that is not recorded."""


def check_same_run(checkpoint: Path, manifest: Manifest, config: RunConfig, data_order: dict[str, Any]) -> None:
    """Refuse to go on from a checkpoint when a setting has changed that would change the model or the data order.

    Of the mixture only what the run has read by then must be the same.
    """
    model = config.model.model_dump(mode="json")
    for group, now, then in (("model", model, manifest.model), ("data", data_order, manifest.data_order)):
        for name in sorted((now.keys() | then.keys()) - _MIXTURE):
            if now.get(name) != then.get(name):
                was, is_now = (order.get(name, _UNSET.get(name)) for order in (then, now))
                raise UserError(
                    f"{checkpoint}: {_SETTINGS.get(name, f'{group}.{name}')} was {was} when this checkpoint was "
                    f"written and is {is_now} now, so the run would not go on as the same training. Set it back, or "
                    "use another run_dir."
                )
    samples = manifest.step * config.train.global_batch_size
    if past(manifest.data_order, samples) != past(data_order, samples):
        raise UserError(_changed_past(checkpoint, manifest.data_order, config, data_order, samples))
    was_fim, is_fim = (rearranged(order, samples) for order in (manifest.data_order, data_order))
    if was_fim != is_fim:
        names = _source_names(config)
        changed = ", ".join(sorted(names.get(digest, digest[:12]) for digest in was_fim ^ is_fim))
        raise UserError(
            f"{checkpoint}: data.fim.sources has changed for {changed}, of which this run has read already, so it "
            "would not go on as the same training. Set it back, or use another run_dir."
        )


def _changed_past(checkpoint: Path, then: dict[str, Any], config: RunConfig, now: dict[str, Any], samples: int) -> str:
    seq_len = config.train.seq_len
    names = _source_names(config)
    before, after = (in_words(past(order, samples), seq_len, names) for order in (then, now))
    return (
        f"{checkpoint}: the mixture of the {samples * seq_len:,} tokens up to this checkpoint was {before}; now it is "
        f"{after}. What has been read cannot change: set it back (a new source has weight 0 there), and write what is "
        f"to change as an item of data.segments with from_token={samples * seq_len} or later; or use another run_dir"
    )


def _source_names(config: RunConfig) -> dict[str, str]:
    """Paths of the sources that the run has, or had when it was last started, by the digests of their tokens."""
    sources = list(config.data.sources)
    with contextlib.suppress(UserError):
        sources += load_config(config.run_dir).data.sources
    names: dict[str, str] = {}
    for source in sources:
        with contextlib.suppress(DataError):
            names.setdefault(ShardSet.open(source.path).digest, str(source.path))
    return names


_MIXTURE = {"sources", "segments", "fim_sources"}
"""What a recorded data order says of the mixture's sources, of which only the past counts."""
_SETTINGS = {
    "seed": "seed",
    "seq_len": "train.seq_len",
    "global_batch_size": "train.global_batch_size",
    "tokenizer": "data.tokenizer (digest of tokenizer.json)",
}


def write_start(folder: RunFolder, config: RunConfig, start: Start, step: int, events: EventLog) -> None:
    """Bring the folder to the state of `step`: config and tokenizer stored, metrics of lost steps dropped."""
    text = dump(config)
    if folder.config.exists() and (changes := _changes(load_config(folder.path), config)):
        events.write("config_changed", changes=changes)
    aside = folder.config.with_name("config.yaml.part")
    aside.write_text(text)
    aside.rename(folder.config)
    _copy_tokenizer(config.data.tokenizer, folder)
    lost = _rewind(folder.metrics, step)
    events.write("resumed" if start.checkpoint else "started", step=step, steps_lost=lost)
    if start.reset_optimizer:
        events.write("optimizer_reset", step=step, checkpoint=start.checkpoint)
        print(f"going on from the weights of {start.checkpoint} with a fresh optimizer state", flush=True)


def _copy_tokenizer(source: Path, folder: RunFolder) -> None:
    """Save the run's tokenizer in its folder; one that an attempt without a checkpoint left there may be another."""
    if source.resolve() == folder.tokenizer.resolve():
        return
    copy = folder.path / "tokenizer.part"
    shutil.rmtree(copy, ignore_errors=True)
    Tokenizer.load(source).save(copy)
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
