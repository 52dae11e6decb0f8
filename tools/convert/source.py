"""A trained model wherever it lies: in a run's folder or in an exported one."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.tokenizer import Tokenizer
from launcher.errors import UserError
from launcher.train.run_folder import RunFolder, load_config
from megamodel.checkpoint import (
    Manifest,
    checkpoint_name,
    find_newest_good,
    load_weights,
    read_manifest,
    verify_checkpoint,
)
from megamodel.config import ModelConfig
from megamodel.errors import CheckpointError, ModelError
from megamodel.gpt import GPT
from tools.convert.hf_read import CONFIG, read_hf

_ATTEMPTS = 20


@dataclass(frozen=True)
class Source:
    """A model's settings, its weights (fp32 from a run, as stored from an export) and the folder of its tokenizer."""

    name: str
    config: ModelConfig
    weights: dict[str, Tensor]
    tokenizer: Path
    notes: list[str] = field(default_factory=list)
    """What a reader should know: newer checkpoints that are damaged, say."""

    def build(self, device: torch.device | str = "cpu") -> GPT:
        """The decoder in fp32, ready for inference; ModelError when the weights are not of this configuration."""
        with torch.device("meta"):
            model = GPT(self.config)
        _check_fit(model, self.weights)
        weights = {name: tensor.to(device, torch.float32) for name, tensor in self.weights.items()}
        model.load_state_dict(weights, assign=True)
        return model.requires_grad_(False).eval()


def open_source(path: Path, step: int | None = None) -> Source:
    """The model in a run's folder (its newest good checkpoint, or that of a step) or in an exported folder.

    UserError when the folder is neither, or has no such checkpoint; CheckpointError or ModelError when it is damaged.
    """
    if (path / CONFIG).is_file():
        if step is not None:
            raise UserError(f"{path} is an export, which has no steps; leave out --step, or give the run's folder.")
        config, weights = read_hf(path)
        return Source(str(path), config, weights, path)
    if not RunFolder(path).config.is_file():
        raise UserError(f"{path} is neither a run's folder (no config.yaml) nor an export (no {CONFIG}).")
    return _from_run(RunFolder(path), step)


def _from_run(folder: RunFolder, step: int | None) -> Source:
    config = load_config(folder.path).model
    for _ in range(_ATTEMPTS):
        checkpoint, notes = find_checkpoint(folder, step)
        try:
            manifest, weights = read_manifest(checkpoint), load_weights(checkpoint)
        except CheckpointError:
            if checkpoint.is_dir():
                raise
            # Else the run, still in progress, has deleted it since it was chosen: there is a newer one.
            continue
        _check_tokenizer(folder, manifest)
        return Source(f"{folder.path} ({checkpoint.name})", config, weights, folder.tokenizer, notes)
    raise UserError(f"{folder.path}: it deletes checkpoints faster than they can be read; try again when it has ended.")


def _check_tokenizer(folder: RunFolder, manifest: Manifest) -> None:
    """Ids mean nothing under another tokenizer; checkpoints that do not name theirs are taken at their word."""
    trained, here = manifest.data_order.get("tokenizer"), Tokenizer.load(folder.tokenizer).digest
    if trained not in (None, here):
        raise UserError(
            f"{folder.tokenizer} is not the tokenizer that the model was trained with (sha256 {here[:12]}..., "
            f"the checkpoint names {trained[:12]}...); put the run's own tokenizer back there."
        )


def find_checkpoint(folder: RunFolder, step: int | None) -> tuple[Path, list[str]]:
    """A run's checkpoint of a step, or its newest good one with what a reader should know; verified, or UserError."""
    return _newest(folder) if step is None else (_at_step(folder, step), [])


def _newest(folder: RunFolder) -> tuple[Path, list[str]]:
    checkpoint, bad = find_newest_good(folder.checkpoints)
    notes = [f"{path.name} is damaged and was passed over: {faults[0]}" for path, faults in bad]
    if checkpoint is None:
        reason = notes[0] if notes else "it has none yet"
        raise UserError(f"{folder.path}: no good checkpoint: {reason}. `megamodel train` writes them.")
    return checkpoint, notes


def _at_step(folder: RunFolder, step: int) -> Path:
    checkpoint = folder.checkpoints / checkpoint_name(step)
    faults = verify_checkpoint(checkpoint)
    if not checkpoint.is_dir():
        raise UserError(
            f"{folder.path}: no checkpoint of step {step}; `megamodel checkpoint list` shows those there are."
        )
    if faults:
        raise UserError(f"{faults[0]}. Leave out --step to take the newest good checkpoint.")
    return checkpoint


def _check_fit(model: GPT, weights: dict[str, Tensor]) -> None:
    expected = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: tuple(tensor.shape) for name, tensor in weights.items()}
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            raise ModelError(
                f"the weights are not of this configuration: {name} is {found.get(name, 'missing')}, "
                f"the configuration wants {expected.get(name, 'none of that name')}"
            )
