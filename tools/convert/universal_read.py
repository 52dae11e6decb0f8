"""Read a DeepSpeed universal checkpoint: a folder a parameter, with its fp32 value and moments whole."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megamodel.errors import CheckpointError
from megamodel.optim.adamw import MOMENTS
from megamodel.parallel.shard import Box
from tools.convert.foreign import Foreign, ForeignTensor, Piece, check_updates, one_step
from tools.convert.untrusted import Advance, load_torch_file

ZERO = "zero"
OPTIMIZER_STATE = "optimizer_state.pt"
FILES = {"param": "fp32.pt", "exp_avg": "exp_avg.pt", "exp_avg_sq": "exp_avg_sq.pt"}
"""File of each kind of tensor, in the folder of its parameter."""


def read_universal(folder: Path, weights_only: bool, advance: Advance) -> Foreign:
    """What the `zero` folder holds; CheckpointError names the file that is missing or damaged."""
    model_file, model = _model_states(folder, advance)
    shapes = _shapes(model)
    parameters = sorted(path for path in (folder / ZERO).iterdir() if path.is_dir())
    _check_present(folder, shapes)
    trained = [path for path in parameters if any((path / f"{moment}.pt").exists() for moment in MOMENTS)]
    tensors = {"param": {path.name: _tensor(path / "fp32.pt", shapes, advance) for path in parameters}}
    step = one_step(folder, _steps(folder, trained, weights_only, advance)) if trained else None
    check_updates(model_file or folder, model, step)
    if trained and not weights_only:
        for moment in MOMENTS:
            tensors[moment] = {path.name: _tensor(path / f"{moment}.pt", shapes, advance) for path in trained}
    updates = None if weights_only else step
    return Foreign(folder, "DeepSpeed universal checkpoint", tensors, updates, model.get("global_steps"))


def _check_present(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """The model's file lists the trained parameters: a lost file is then told by its name, not as an unfit model."""
    kinds = [kind for kind in FILES if any((folder / ZERO).glob(f"*/{FILES[kind]}"))]
    for name in shapes:
        for kind in kinds:
            if not (path := folder / ZERO / name / FILES[kind]).exists():
                raise CheckpointError(f"{path} is missing, and the model's file lists {name}; copy the whole folder")


def _model_states(folder: Path, advance: Advance) -> tuple[Path | None, Mapping[str, Any]]:
    path = next(iter(sorted(folder.glob("*model_states.pt"))), None)
    content = load_torch_file(path, advance) if path is not None else {}
    return path, content if isinstance(content, dict) else {}


def _shapes(model: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """DeepSpeed's converter leaves what stage 3 saved as rows of elements; their shapes stand beside the model."""
    found = model.get("param_shapes")
    groups = found if isinstance(found, list) else [found]
    return {
        name: tuple(shape)
        for group in groups
        if isinstance(group, dict)
        for name, shape in group.items()
        if isinstance(shape, torch.Size)
    }


def _tensor(path: Path, shapes: Mapping[str, tuple[int, ...]], advance: Advance) -> ForeignTensor:
    content = load_torch_file(path, advance)
    value = content.get("param") if isinstance(content, dict) else content
    if not isinstance(value, Tensor):
        raise CheckpointError(f"{path}: holds no tensor")
    shape = shapes.get(path.parent.name, tuple(value.shape))
    flat = tuple(value.shape) == (math.prod(shape),)
    if not flat and tuple(value.shape) != shape:
        raise CheckpointError(f"{path}: {list(value.shape)}, and by the model's file it is {list(shape)}")
    box = Box((0,) * value.dim(), tuple(value.shape))
    return ForeignTensor(shape, (Piece(box, path, lambda: value),), flat)


def _steps(folder: Path, parameters: list[Path], weights_only: bool, advance: Advance) -> dict[str, float]:
    """Made of stages 1 and 2 each parameter has its step, made of stage 3 one file has it for all."""
    files = [path / "step.pt" for path in parameters if (path / "step.pt").exists()]
    if files:
        return {f"{path.parent.name}/{path.name}": _number(path, load_torch_file(path, advance)) for path in files}
    path = folder / ZERO / OPTIMIZER_STATE
    if weights_only and not path.exists():
        return {}
    content = load_torch_file(path, advance)
    try:
        states: Mapping[int, Any] = content["optimizer_state_dict"]["state"]
        return {f"{path.name}, group {group}": _number(path, state["step"]) for group, state in states.items()}
    except (LookupError, TypeError, AttributeError):
        raise CheckpointError(f"{path}: does not say how many steps the optimizer has made") from None


def _number(path: Path, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, RuntimeError):
        raise CheckpointError(f"{path}: a number of steps was expected") from None
