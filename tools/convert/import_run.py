"""Import a checkpoint of DeepSpeed or torch.distributed.checkpoint as a run that `megamodel train` continues.

Nothing of the other software is started and none of its classes come to life. Tensors are read, renamed and written a
few at a time: the peak of memory is twice GROUP_BYTES and one tensor more (measured: 640 MB for a state of 1.7 GB), or
three times the largest tensor where that is more, whatever the model's size; DeepSpeed's files are mapped beside it.
The run appears under its name only when its checkpoint has been read back.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data_pipeline.progress import progress
from data_pipeline.tokenizer import Tokenizer
from launcher.config import RunConfig
from launcher.errors import CheckFailed, UserError
from launcher.mixtures import training_mixture
from launcher.monitor.events import EventLog
from launcher.train.data_order import data_order
from launcher.train.run_folder import RunFolder
from launcher.yaml_config import dump, load
from megamodel.checkpoint import WEIGHTS_ONLY, CheckpointWriter, checkpoint_name, verify_checkpoint
from megamodel.errors import CheckpointError
from megamodel.optim.adamw import state_key, state_shapes
from megamodel.parallel.shard import Holding
from tools.convert.dcp_read import METADATA, look_for_dcp, read_dcp
from tools.convert.foreign import Foreign
from tools.convert.foreign_names import Naming, Place, recognise
from tools.convert.out_folder import aside, check_free, check_space, check_writable, put_in_place
from tools.convert.universal_read import ZERO, read_universal
from tools.convert.untrusted import Advance
from tools.convert.zero_read import read_zero

GROUP_BYTES = 2**28
"""Tensors are written in files of about this size, each from memory."""
OPTIMIZER = "adamw"
_UNSEEN = ("num_attention_heads", "rope_theta", "norm_eps")


@dataclass(frozen=True)
class Imported:
    """A finished import: of what, where to, at which step, and what the user should know."""

    out: Path
    source: str
    kind: str
    names: str
    step: int
    optimizer_updates: int | None
    """None: the source has no optimizer state."""
    parameters: int
    bytes: int
    notes: list[str]


def import_run(
    source: Path, out: Path, config_path: Path, step: int | None = None, weights_only: bool = False
) -> Imported:
    """Make the run folder `out`, with CONFIG's settings, from a folder of DeepSpeed or torch.distributed.checkpoint.

    Args:
        source: a folder of DeepSpeed (with `latest`, or one `global_stepN` or universal folder), or of DCP.
        out: the run's folder, which must not exist.
        config_path: the run's configuration; its model must have the source's shapes.
        step: where the run goes on; None: the source's global step.
        weights_only: leave the optimizer's state behind.

    Raises UserError or CheckpointError, and leaves nothing behind, when anything is missing, damaged or does not fit.
    """
    config = load(config_path, RunConfig).value.model_copy(update={"run_dir": out})
    check_free(out, RunFolder(out).config.name, "run")
    tokenizer = Tokenizer.load(config.data.tokenizer)
    order = data_order(config, training_mixture(config, tokenizer.digest), tokenizer)
    folder = find_folder(source)
    with progress("checking", _size(folder)) as advance:
        foreign = read_foreign(folder, weights_only, advance)
        foreign.check_complete()
    namings = _recognise(foreign, config)
    step = _choose_step(foreign, config, step)
    shapes = {key: shape for key, shape in state_shapes(config.model).items() if key.partition("/")[0] in namings}
    size = 4 * sum(torch.Size(shape).numel() for shape in shapes.values())
    check_writable(out)
    check_space(out.parent, size)
    with aside(out) as made:
        run = RunFolder(made)
        writing = _Writing(run.checkpoints, config, order, shapes, step, foreign.optimizer_step)
        with progress("importing", size) as advance:
            _check_copies(foreign, namings["param"])
            writing.write(_readers(foreign, namings), advance)
        if faults := verify_checkpoint(run.checkpoints / checkpoint_name(step)):
            raise CheckFailed(f"{out}: the checkpoint was written, but does not read back: {faults[0]}")
        _finish(run, config, source, foreign, step)
        put_in_place(made, out)
    parameters = sum(torch.Size(shape).numel() for key, shape in shapes.items() if key.startswith("param/"))
    notes = foreign.notes + _notes(foreign, namings["param"], step)
    name = namings["param"].name
    return Imported(out, str(folder), foreign.kind, name, step, foreign.optimizer_step, parameters, size, notes)


def find_folder(source: Path) -> Path:
    """The folder that holds the tensors: `source` or what its `latest` names. UserError lists what was looked for."""
    if not source.is_dir():
        raise UserError(f"{source} is not a folder; give that of a checkpoint of DeepSpeed or of torch.")
    if (source / METADATA).is_file() or (source / ZERO).is_dir() or any(source.glob("*_states.pt")):
        return source
    for pointer in (source / "latest", source / "latest_universal"):
        if pointer.is_file():
            return _named_by(pointer)
    if saves := sorted(path.name for path in source.glob("global_step*") if path.is_dir()):
        raise UserError(
            f"{source / 'latest'} is missing, which names the last save; give the folder of one: "
            f"{', '.join(saves[:4])}{' and others' if len(saves) > 4 else ''}."
        )
    if any(source.glob("*.distcp")):
        raise CheckpointError(f"{source / METADATA} is missing: that save was not completed; take another one")
    near = next(look_for_dcp(source), None)
    raise UserError(
        f"{source} is no checkpoint known here: it has neither `latest` nor *_states.pt nor zero/ (DeepSpeed), "
        f"nor {METADATA} (torch.distributed.checkpoint)" + (f"; {near} has one, give that." if near else ".")
    )


def _named_by(pointer: Path) -> Path:
    """The folder that `latest` names, beside it; whatever the file holds, UserError shows it as one short line."""
    name = pointer.read_bytes()[:4096].decode(errors="replace").strip()
    shown = (name if name.isprintable() else ascii(name)[1:-1])[:60] or "nothing"
    source, folder = pointer.parent, pointer.parent / name
    try:
        found = bool(name) and folder.is_dir() and folder.resolve().is_relative_to(source.resolve())
    except (OSError, ValueError):  # too long, or with a zero byte in it
        found = False
    if not found:
        raise UserError(f"{pointer} names {shown}, which is not in {source}; give the step's own folder.")
    return folder


def read_foreign(folder: Path, weights_only: bool = False, advance: Advance = lambda done: None) -> Foreign:
    """What the folder of one step holds, by its names."""
    if (folder / METADATA).is_file():
        return read_dcp(folder, weights_only)
    if (folder / ZERO).is_dir():
        return read_universal(folder, weights_only, advance)
    return read_zero(folder, weights_only, advance)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*.pt"))


def _recognise(foreign: Foreign, config: RunConfig) -> dict[str, Naming]:
    namings = {}
    for kind, tensors in foreign.tensors.items():
        where = f"{foreign.path}, {kind}" if kind != "param" else str(foreign.path)
        shapes = {name: tensor.shape for name, tensor in tensors.items()}
        namings[kind] = recognise(where, config.model, shapes, foreign.beside if kind == "param" else None)
    return namings


def _choose_step(foreign: Foreign, config: RunConfig, step: int | None) -> int:
    if step is None and foreign.doubt:
        raise UserError(foreign.doubt)
    known = foreign.global_step if foreign.global_step is not None else foreign.optimizer_step
    chosen = known if step is None else step
    if chosen is None:
        raise UserError(f"{foreign.path} does not say its step; give --step N (0: the schedule starts anew).")
    if chosen >= config.train.steps:
        where = f"{foreign.path} is at step {chosen}, and" if step is None else f"--step {step} leaves nothing to do:"
        raise UserError(
            f"{where} train.steps={config.train.steps} ends there; raise train.steps, or give another --step."
        )
    return chosen


def _check_copies(foreign: Foreign, naming: Naming) -> None:
    """A tied head is stored twice by some; it must be the same twice."""
    for copy, table in naming.copies.items():
        if not torch.equal(foreign.read("param", copy), foreign.read("param", table)):
            raise CheckpointError(
                f"{foreign.path}: {copy} differs from {table}, so they are not tied there; "
                "set model.tie_word_embeddings: false"
            )


def _readers(foreign: Foreign, namings: Mapping[str, Naming]) -> dict[str, Callable[[], Tensor]]:
    """For each of our keys a function that reads it."""
    return {
        state_key(kind, name): partial(_read, foreign, kind, place)
        for kind, naming in namings.items()
        for name, place in naming.places.items()
    }


def _read(foreign: Foreign, kind: str, place: Place) -> Tensor:
    return place.of(foreign.read(kind, place.source))


@dataclass(frozen=True)
class _Writing:
    """Writes the checkpoint as if of several ranks, one after the other, so that one rank's part is in memory."""

    folder: Path
    config: RunConfig
    data_order: dict[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    step: int
    optimizer_step: int | None

    def write(self, readers: Mapping[str, Callable[[], Tensor]], advance: Advance) -> None:
        """Read and write each tensor."""
        groups = self._groups(readers)
        for rank in reversed(range(len(groups))):  # the first commits, so it comes last
            tensors = {}
            for key, read in groups[rank].items():
                tensors[key] = replace(Holding.of(read()), written_by="this")
                advance(4 * tensors[key].pieces[0][0].size)
            writer = self._writer(rank, len(groups))
            writer.save(self.step, tensors)
            writer.wait()

    def _groups(self, readers: Mapping[str, Callable[[], Tensor]]) -> list[dict[str, Callable[[], Tensor]]]:
        groups: list[dict[str, Callable[[], Tensor]]] = []
        room = 0
        for key, read in readers.items():
            size = 4 * torch.Size(self.shapes[key]).numel()
            if not groups or size > room:
                groups.append({})
                room = GROUP_BYTES
            groups[-1][key] = read
            room -= size
        return groups

    def _writer(self, rank: int, ranks: int) -> CheckpointWriter:
        updates = self.optimizer_step
        return CheckpointWriter(
            self.folder,
            rank=rank,
            world_size=ranks,
            attempt="import",
            keep=1,
            permanent_every_steps=None,
            optimizer=WEIGHTS_ONLY if updates is None else OPTIMIZER,
            optimizer_start=0 if updates is None else self.step - updates,
            model=self.config.model.model_dump(mode="json"),
            data_order=self.data_order,
            shapes=self.shapes,
            on_saved=lambda saved: None,
        )


def _finish(run: RunFolder, config: RunConfig, source: Path, foreign: Foreign, step: int) -> None:
    run.config.write_text(dump(config), encoding="utf-8")
    shutil.copytree(config.data.tokenizer, run.tokenizer)
    EventLog(run.events).write("imported", source=str(source.resolve()), kind=foreign.kind, step=step)


def _notes(foreign: Foreign, naming: Naming, step: int) -> list[str]:
    notes = [f"{', '.join(_UNSEEN)} show in no shape: they are the configuration's"]
    if naming.left_out:
        notes.append(f"left out: {len(naming.left_out)} other tensors, such as {naming.left_out[0]}")
    for rival in naming.rivals:
        notes.append(f"{rival}* is the model once more and was left out: the optimizer lies beside {naming.prefix}*")
    if foreign.optimizer_step is None:
        notes.append("there is no optimizer state: train on with checkpoint.reset_optimizer=true")
    elif foreign.optimizer_step != step:
        notes.append(f"the optimizer has made {foreign.optimizer_step} updates and goes on counting from there")
    return notes
