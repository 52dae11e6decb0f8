"""Fill tensors of any layout from a checkpoint of any layout."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megamodel.checkpoint.manifest import Manifest, TensorEntry, read_manifest
from megamodel.errors import CheckpointError
from megamodel.parallel.shard import Box, Holding, local_box

_WEIGHTS = "param/"


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
def load_into(
    checkpoint: Path,
    targets: Mapping[str, Holding],
    expected: Mapping[str, tuple[int, ...]],
    weights_only: bool = False,
) -> Manifest:
    """Copy a verified checkpoint into what this rank holds; each rank reads just the boxes it needs.

    Args:
        checkpoint: folder of the checkpoint.
        targets: live pieces by key; a rank may hold some of the tensors only.
        expected: the shapes of all tensors of the whole model.
        weights_only: leave the optimizer's state as it is.

    Raises CheckpointError, before anything is changed, when names or shapes differ.
    """
    manifest = read_manifest(checkpoint)
    if weights_only:
        expected = {name: shape for name, shape in expected.items() if name.startswith(_WEIGHTS)}
        targets = {name: holding for name, holding in targets.items() if name.startswith(_WEIGHTS)}
    _check_same_tensors(checkpoint, manifest, expected, weights_only)
    with ExitStack() as stack:
        files = _Files(checkpoint, stack)
        for name, target in targets.items():
            for box, piece in target.pieces:
                _fill(piece, box, manifest.tensors[name], files)
    return manifest


def load_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The whole fp32 weights of a checkpoint on the CPU, by parameter name, without the optimizer's state."""
    return {name.removeprefix(_WEIGHTS): tensor for name, tensor in read_tensors(checkpoint, _WEIGHTS)}


def read_tensors(checkpoint: Path, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """The tensors of a checkpoint whose names begin so, whole, one after the other in the order of their names."""
    manifest = read_manifest(checkpoint)
    with ExitStack() as stack:
        files = _Files(checkpoint, stack)
        for name in sorted(manifest.tensors):
            if name.startswith(prefix):
                tensor = torch.empty(manifest.tensors[name].shape)
                _fill(tensor, local_box(tensor), manifest.tensors[name], files)
                yield name, tensor


def _fill(part: Tensor, box: Box, entry: TensorEntry, files: _Files) -> None:
    for chunk in entry.chunks:
        shared = box.overlap(chunk.box)
        if shared is not None:
            value = files.read(chunk.file, chunk.key, shared.relative_to(chunk.box))
            part[shared.relative_to(box)].copy_(value)


def _check_same_tensors(
    checkpoint: Path, manifest: Manifest, expected: Mapping[str, tuple[int, ...]], weights_only: bool
) -> None:
    present = {name for name in manifest.tensors if not weights_only or name.startswith(_WEIGHTS)}
    missing, extra = sorted(expected.keys() - present), sorted(present - expected.keys())
    if missing or extra:
        name, where = (missing[0], "is not in the checkpoint") if missing else (extra[0], "is not in the model")
        raise CheckpointError(
            f"{checkpoint}: made by another model: {name} {where} ({len(missing)} missing, {len(extra)} unknown). "
            "Use the model settings it was trained with, or another run_dir."
        )
    for name, shape in expected.items():
        if tuple(shape) != manifest.tensors[name].shape:
            raise CheckpointError(
                f"{checkpoint}: {name} is {manifest.tensors[name].shape}, the model wants {tuple(shape)}. "
                "Use the model settings it was trained with, or another run_dir."
            )
