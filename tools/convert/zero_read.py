"""Read the folder that DeepSpeed's ZeRO 1, 2 or 3 saves, without DeepSpeed: one file a rank, each parameter cut flat.

Stages 1 and 2 (arXiv:1910.02054) cut the row of all parameters of a group into equal parts, and each file names the
fragments in its part. Stage 3 cuts each parameter into equal parts, the last filled up.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megamodel.errors import CheckpointError
from megamodel.optim.adamw import MOMENTS
from megamodel.parallel.shard import Box
from tools.convert.foreign import Foreign, ForeignTensor, Piece, check_updates, check_weights, one_step
from tools.convert.untrusted import Advance, load_torch_file

_OPTIMIZER_FILE = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_(\d+)_optim_states\.pt")
_MODEL_FILES = ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt")
_CUT_FURTHER = ("layer_*_model_states.pt", "expp_rank_*_optim_states.pt", "*mp_rank_01_model_states.pt")
_UNIVERSAL = "make a universal checkpoint of it with DeepSpeed's ds_to_universal.py and import that"


Shapes = list[dict[str, tuple[int, ...]]]
"""Of each group's parameters, in the order in which they were cut."""


@dataclass(frozen=True)
class _RankFile:
    """One rank's optimizer file: for each group of parameters the fp32 values and the state, cut flat."""

    path: Path
    stage: int
    values: list[Tensor]
    states: Sequence[Mapping[str, Any]]
    fillings: Sequence[Sequence[int]]
    """Stages 1 and 2: elements without meaning behind each parameter of each group."""
    ranks: int


def read_zero(folder: Path, weights_only: bool, advance: Advance) -> Foreign:
    """What the files of a `global_stepN` folder hold; CheckpointError names the file that is missing or damaged."""
    for pattern in _CUT_FURTHER:
        if strange := next(iter(sorted(folder.glob(pattern))), None):
            raise CheckpointError(
                f"{strange}: this model is also cut by tensor, pipeline or expert parallelism; {_UNIVERSAL}"
            )
    model_file, model = _model_states(folder, advance)
    files = _rank_files(folder)
    if not files:
        return _without_zero(folder, model_file, model, weights_only)
    shapes = _shapes(model_file, model)
    ranks = [_rank_file(path, shapes, advance) for path in files]
    _check_ranks(ranks, shapes, model)
    frozen = next(iter(model.get("frozen_param_shapes") or {}), None)
    if frozen:
        raise CheckpointError(f"{model_file}: {frozen} and maybe others are frozen; megamodel trains every parameter")
    stage = ranks[0].stage
    tensors = {"param": _tensors(ranks, shapes, "param")}
    if not weights_only:
        tensors |= {moment: _tensors(ranks, shapes, moment) for moment in MOMENTS}
    step = one_step(folder, _steps(ranks, weights_only))
    check_updates(model_file, model, step)
    kind = f"DeepSpeed ZeRO-{stage}, {len(ranks)} ranks"
    foreign = Foreign(folder, kind, tensors, None if weights_only else step, model.get("global_steps"))
    foreign.check_complete()
    if stage < 3:  # the model's file has the whole model once more
        check_weights(foreign, model_file, model["module"])
    return foreign


def _model_states(folder: Path, advance: Advance) -> tuple[Path, dict[str, Any]]:
    path = next((folder / name for name in _MODEL_FILES if (folder / name).is_file()), None)
    if path is None:
        raise CheckpointError(f"{folder / _MODEL_FILES[0]} is missing (with ZeRO-3 {_MODEL_FILES[1]}); copy it, too")
    content = load_torch_file(path, advance)
    if not isinstance(content, dict) or not isinstance(content.get("module"), dict):
        raise CheckpointError(f"{path}: not what DeepSpeed writes, it has no `module`")
    return path, content


def _shapes(path: Path, model: Mapping[str, Any]) -> Shapes:
    try:
        return [{name: tuple(map(int, shape)) for name, shape in group.items()} for group in model["param_shapes"]]
    except (LookupError, TypeError, AttributeError, ValueError):
        raise CheckpointError(f"{path}: not what DeepSpeed writes beside ZeRO's files, its param_shapes") from None


def _rank_files(folder: Path) -> list[Path]:
    """The optimizer files in the order of the ranks."""
    found: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = _OPTIMIZER_FILE.fullmatch(path.name)
        if match and int(match[2]):
            raise CheckpointError(f"{path}: this model is also cut by tensor parallelism; {_UNIVERSAL}")
        if match and int(match[1]) in found:
            raise CheckpointError(
                f"{path} and {found[int(match[1])].name} are of the same rank: two saves lie in one folder; "
                "remove the older one's files"
            )
        if match:
            found[int(match[1])] = path
    for rank in range(len(found)):
        if rank not in found:
            raise CheckpointError(f"{_named_like(next(iter(found.values())), rank)} is missing; copy the whole folder")
    return [found[rank] for rank in range(len(found))]


def _named_like(path: Path, rank: int) -> Path:
    return path.with_name(re.sub(r"pp_rank_\d+", f"pp_rank_{rank}", path.name))


def _rank_file(path: Path, shapes: Shapes, advance: Advance) -> _RankFile:
    content = load_torch_file(path, advance)
    try:
        optimizer = content["optimizer_state_dict"]
        if "fp32_flat_groups" in optimizer:
            stage, values, base = 3, optimizer["fp32_flat_groups"], optimizer["optimizer_state_dict"]
            fillings: list[list[int]] = []
        else:
            values, base = optimizer["single_partition_of_fp32_groups"], optimizer["base_optimizer_state"]
            stage = optimizer["zero_stage"].args[0] if "zero_stage" in optimizer else 1
            names = [len(group) for group in shapes]
            fillings = optimizer.get("param_alignment_paddings") or [[0] * count for count in names]
            if [len(filling) for filling in fillings] != names:
                raise ValueError("param_alignment_paddings of other parameters")
        groups = base["param_groups"]
        states = [
            {"step": groups[min(number, len(groups) - 1)].get("step"), **base["state"].get(number, {})}
            for number in range(len(values))
        ]
        counts = optimizer["partition_count"]
        ranks = max(counts) if isinstance(counts, list) else counts
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: not the optimizer file of a DeepSpeed that is known here ({type(error).__name__}: {error}); "
            + _UNIVERSAL
        ) from None
    return _RankFile(path, stage, values, states, fillings, ranks)


def _check_ranks(ranks: list[_RankFile], shapes: Shapes, model: Mapping[str, Any]) -> None:
    expected = max([model.get("dp_world_size") or 0, *(rank.ranks for rank in ranks)])
    if len(ranks) < expected:
        missing = _named_like(ranks[0].path, len(ranks))
        raise CheckpointError(f"{missing} is missing: {expected} ranks saved, {len(ranks)} files are here")
    if len(ranks) > expected:
        raise CheckpointError(f"{ranks[expected].path}: of another save, for this one was made by {expected} ranks")
    for rank in ranks:
        if (rank.stage, len(rank.values)) != (ranks[0].stage, len(shapes)):
            raise CheckpointError(
                f"{rank.path}: of another save than the model's file: another stage, or other groups of parameters"
            )


def _flat(rank: _RankFile, group: int, kind: str) -> Tensor:
    """One rank's part of a group's values or of a moment."""
    tensor = rank.values[group] if kind == "param" else rank.states[group].get(kind)
    if not isinstance(tensor, Tensor):
        has = ", ".join(name for name, value in rank.states[group].items() if isinstance(value, Tensor)) or "nothing"
        raise CheckpointError(
            f"{rank.path}: the optimizer keeps {has}, not the moments of AdamW ({', '.join(MOMENTS)}); "
            "import the weights alone with --weights-only"
        )
    return tensor.flatten()


def _tensors(ranks: list[_RankFile], shapes: Shapes, kind: str) -> dict[str, ForeignTensor]:
    pieces = _pieces_3 if ranks[0].stage == 3 else _pieces_1
    found: dict[str, list[Piece]] = {name: [] for group in shapes for name in group}
    for name, piece in pieces(ranks, shapes, kind):
        if name not in found:
            raise CheckpointError(
                f"{piece.file}: {name} is not among the model's parameters; files of two runs are mixed"
            )
        found[name].append(piece)
    return {
        name: ForeignTensor(shape, tuple(found[name]), flat=True) for group in shapes for name, shape in group.items()
    }


def _pieces_1(ranks: list[_RankFile], shapes: Shapes, kind: str) -> Iterator[tuple[str, Piece]]:
    """Stages 1 and 2: the ranks' parts make up a row of all parameters in the order of the model file's shapes.

    The files also name fragments, but wrongly with round_robin_gradients (DeepSpeed 0.19.8).
    """
    for group, names in enumerate(shapes):
        flats = [_flat(rank, group, kind) for rank in ranks]
        each = max(flat.numel() for flat in flats)  # the filling at the end of the row may have been left out
        start = 0
        for (name, shape), filling in zip(names.items(), ranks[0].fillings[group], strict=True):
            end = start + math.prod(shape)
            for number, (rank, flat) in enumerate(zip(ranks, flats, strict=True)):
                first, last = max(start, number * each), min(end, (number + 1) * each)
                if first < last:
                    yield name, _piece(rank.path, flat, name, first - number * each, first - start, last - first)
            start = end + filling


def _pieces_3(ranks: list[_RankFile], shapes: Shapes, kind: str) -> Iterator[tuple[str, Piece]]:
    """Stage 3: each rank has an equal part of each parameter; what lies beyond its end is filling."""
    for number, rank in enumerate(ranks):
        for group, names in enumerate(shapes):
            flat, start = _flat(rank, group, kind), 0
            for name, shape in names.items():
                elements = math.prod(shape)
                part = -(-elements // len(ranks))
                begin = min(number * part, elements)
                yield name, _piece(rank.path, flat, name, start, begin, min(part, elements - begin))
                start += part


def _piece(path: Path, flat: Tensor, name: str, start: int, begin: int, count: int) -> Piece:
    if start < 0 or count < 0 or start + count > flat.numel():
        raise CheckpointError(f"{path}: {name} reaches beyond the end of this rank's part")
    part = flat[start : start + count]
    return Piece(Box((begin,), (count,)), path, lambda: part)


def _steps(ranks: list[_RankFile], weights_only: bool) -> dict[str, float]:
    """By the file and group that say it. The weights lie in the same files, so it matters for them, too."""
    steps = {}
    for rank in ranks:
        for group, state in enumerate(rank.states):
            if state["step"] is None and weights_only:
                continue
            if state["step"] is None:
                raise CheckpointError(f"{rank.path}: the optimizer does not count its steps; use --weights-only")
            steps[f"{rank.path.name}, group {group}"] = float(state["step"])
    return steps


def _without_zero(folder: Path, path: Path, model: Mapping[str, Any], weights_only: bool) -> Foreign:
    """Without ZeRO there is one file, and its optimizer state goes by numbers, not names."""
    stage = _stage(model)
    weights = {name: value for name, value in model["module"].items() if isinstance(value, torch.Tensor)}
    if any(value.numel() == 0 for value in weights.values()):
        raise CheckpointError(f"{folder} has no *_optim_states.pt, in which ZeRO-3 keeps the weights; copy them, too")
    if stage and not weights_only:
        raise CheckpointError(
            f"{folder} has no *_optim_states.pt, in which ZeRO-{stage} keeps fp32 weights and moments; "
            f"copy them, too, or take what {path.name} has of the weights with --weights-only"
        )
    notes = ["there are no *_optim_states.pt, so the weights are imported without optimizer state"]
    if stage:
        types = ", ".join(sorted({str(value.dtype).removeprefix("torch.") for value in weights.values()}))
        notes = [f"ZeRO-{stage}'s *_optim_states.pt are missing: the weights are {path.name}'s, as rounded to {types}"]
    tensors = {name: ForeignTensor(tuple(value.shape), (_whole(path, value),)) for name, value in weights.items()}
    kind = f"DeepSpeed ZeRO-{stage}, the model's file alone" if stage else "DeepSpeed without ZeRO"
    return Foreign(folder, kind, {"param": tensors}, None, model.get("global_steps"), notes)


def _stage(model: Mapping[str, Any]) -> int:
    """Of the run that saved, as its settings say; without them, that there are param_shapes means some stage."""
    try:
        stage = model["ds_config"]["zero_optimization"]["stage"]
    except (LookupError, TypeError):
        stage = 0
    return stage if isinstance(stage, int) and stage else int(bool(model.get("param_shapes")))


def _whole(path: Path, value: Tensor) -> Piece:
    return Piece(Box((0,) * value.dim(), tuple(value.shape)), path, lambda: value)
