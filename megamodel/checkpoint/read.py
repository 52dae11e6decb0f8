"""Fill tensors of any layout from a checkpoint of any layout."""

from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megamodel.checkpoint.manifest import Manifest, TensorEntry, read_manifest
from megamodel.errors import CheckpointError
from megamodel.parallel.shard import Box, local_box, local_part


class _Files:
    """The checkpoint's tensor files, each opened once, when first needed."""

    def __init__(self, checkpoint: Path, stack: ExitStack) -> None:
        self.checkpoint, self.stack = checkpoint, stack
        self.open: dict[str, Any] = {}

    def read(self, file: str, name: str, part: tuple[slice, ...]) -> Tensor:
        if file not in self.open:
            path = self.checkpoint / file
            try:
                self.open[file] = self.stack.enter_context(safe_open(path, framework="pt"))
            except (OSError, SafetensorError, RuntimeError) as error:  # the last is torch's, which maps the file
                why = error if path.exists() else "it is gone"
                raise CheckpointError(f"{path}: cannot be read: {why}. Take another checkpoint.") from None
        chunk = self.open[file].get_slice(name)
        return chunk[part] if part else self.open[file].get_tensor(name)


@torch.no_grad()
def load_into(checkpoint: Path, targets: Mapping[str, Tensor]) -> Manifest:
    """Copy a verified checkpoint into live tensors, whole or sharded; each rank reads just the boxes it holds.

    Raises CheckpointError, before anything is changed, when names or shapes differ.
    """
    manifest = read_manifest(checkpoint)
    _check_same_tensors(checkpoint, manifest, targets)
    with ExitStack() as stack:
        files = _Files(checkpoint, stack)
        for name, target in targets.items():
            _fill(local_part(target), local_box(target), name, manifest.tensors[name], files)
    return manifest


def load_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The whole fp32 weights of a checkpoint on the CPU, by parameter name, without the optimizer's state."""
    manifest = read_manifest(checkpoint)
    prefix = "param/"
    targets = {name: torch.empty(entry.shape) for name, entry in manifest.tensors.items() if name.startswith(prefix)}
    with ExitStack() as stack:
        files = _Files(checkpoint, stack)
        for name, target in targets.items():
            _fill(target, local_box(target), name, manifest.tensors[name], files)
    return {name.removeprefix(prefix): tensor for name, tensor in targets.items()}


def _fill(part: Tensor, box: Box, name: str, entry: TensorEntry, files: _Files) -> None:
    for chunk in entry.chunks:
        shared = box.overlap(chunk.box)
        if shared is not None:
            value = files.read(chunk.file, name, shared.relative_to(chunk.box))
            part[shared.relative_to(box)].copy_(value)


def _check_same_tensors(checkpoint: Path, manifest: Manifest, targets: Mapping[str, Tensor]) -> None:
    missing = sorted(targets.keys() - manifest.tensors.keys())
    extra = sorted(manifest.tensors.keys() - targets.keys())
    if missing or extra:
        name, where = (missing[0], "is not in the checkpoint") if missing else (extra[0], "is not in the model")
        raise CheckpointError(
            f"{checkpoint}: made by another model: {name} {where} ({len(missing)} missing, {len(extra)} unknown). "
            "Use the model settings it was trained with, or another run_dir."
        )
    for name, target in targets.items():
        if tuple(target.shape) != manifest.tensors[name].shape:
            raise CheckpointError(
                f"{checkpoint}: {name} is {manifest.tensors[name].shape}, the model wants {tuple(target.shape)}. "
                "Use the model settings it was trained with, or another run_dir."
            )
