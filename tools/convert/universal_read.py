"""Read a DeepSpeed universal checkpoint: a folder a parameter, with its fp32 value and moments whole."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from megamodel.errors import CheckpointError
from megamodel.optim.adamw import MOMENTS
from megamodel.parallel.shard import Box
from tools.convert.foreign import Foreign, ForeignTensor, Piece, one_step
from tools.convert.untrusted import Advance, load_torch_file

ZERO = "zero"
OPTIMIZER_STATE = "optimizer_state.pt"


def read_universal(folder: Path, weights_only: bool, advance: Advance) -> Foreign:
    """What the `zero` folder holds; CheckpointError names the file that is missing or damaged."""
    parameters = sorted(path for path in (folder / ZERO).iterdir() if path.is_dir())
    tensors = {"param": {path.name: _tensor(path / "fp32.pt", advance) for path in parameters}}
    trained = [path for path in parameters if any((path / f"{moment}.pt").exists() for moment in MOMENTS)]
    if not trained or weights_only:
        return Foreign(folder, "DeepSpeed universal checkpoint", tensors, None, _global_step(folder, advance))
    for moment in MOMENTS:
        tensors[moment] = {path.name: _tensor(path / f"{moment}.pt", advance) for path in trained}
    step = one_step(folder, _steps(folder, trained, advance))
    return Foreign(folder, "DeepSpeed universal checkpoint", tensors, step, _global_step(folder, advance))


def _tensor(path: Path, advance: Advance) -> ForeignTensor:
    content = load_torch_file(path, advance)
    value = content.get("param") if isinstance(content, dict) else content
    if not isinstance(value, Tensor):
        raise CheckpointError(f"{path}: holds no tensor")
    shape = tuple(value.shape)
    return ForeignTensor(shape, (Piece(Box((0,) * len(shape), shape), path, lambda: value),))


def _steps(folder: Path, parameters: list[Path], advance: Advance) -> dict[str, float]:
    """Made of stages 1 and 2 each parameter has its step, made of stage 3 one file has it for all."""
    files = [path / "step.pt" for path in parameters if (path / "step.pt").exists()]
    if files:
        return {f"{path.parent.name}/{path.name}": _number(path, load_torch_file(path, advance)) for path in files}
    path = folder / ZERO / OPTIMIZER_STATE
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


def _global_step(folder: Path, advance: Advance) -> int | None:
    for path in sorted(folder.glob("*model_states.pt")):
        content = load_torch_file(path, advance)
        step = content.get("global_steps") if isinstance(content, dict) else None
        return step if isinstance(step, int) else None
    return None
