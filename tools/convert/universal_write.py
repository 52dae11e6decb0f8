"""Write a DeepSpeed universal checkpoint: what `ds_to_universal.py` makes, for engines of the stages 1, 2 and 3 alike.

The stages read different files of it: 1 and 2 take the model states `mp_rank_00`, the optimizer's groups at the top of
optimizer_state.pt and a step beside each parameter; 3 takes `zero_pp_rank_0_mp_rank_00` and looks for groups and step
one level deeper. Here are both, without a class of DeepSpeed's in any file.
"""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megamodel.checkpoint.folder import sync_folder
from tools.convert.universal_read import FILES, OPTIMIZER_STATE, ZERO

LATEST = "latest_universal"
_FORMAT = "0.19.8"
"""The DeepSpeed whose files these are like."""
_GROUPS = 1024
"""More groups than any optimizer has: DeepSpeed restores as many groups as there are in both."""


def folder_name(step: int) -> str:
    """As DeepSpeed's converter is told to name it."""
    return f"global_step{step}_universal"


def write_tensors(folder: Path, kind: str, tensors: Iterable[tuple[str, Tensor]]) -> dict[str, str]:
    """Write all tensors of a kind, one at a time; return the digest of each one's fp32 values by its name."""
    digests = {}
    for name, tensor in tensors:
        place = folder / ZERO / name
        place.mkdir(parents=True, exist_ok=True)
        tensor = tensor.contiguous()
        if tensor.untyped_storage().nbytes() > tensor.nbytes:  # torch.save would write all that it is a part of
            tensor = tensor.clone()
        _save(place / FILES[kind], {"param": tensor, "cat_dim": 0})
        digests[name] = hashlib.blake2b(tensor.view(-1).view(torch.uint8).numpy().data, digest_size=16).hexdigest()
    return digests


def write_states(folder: Path, names: Iterable[str], step: int, updates: int) -> None:
    """Write everything beside the tensors, and the pointer above the folder."""
    count = torch.tensor(float(updates))
    for name in names:
        _save(folder / ZERO / name / "step.pt", count)
    # Groups without settings: learning rate, decay and betas stay those of the engine that loads.
    groups: list[dict[str, Any]] = [{} for _ in range(_GROUPS)]
    deeper = {"state": {0: {"step": count}}, "param_groups": groups}
    optimizer = {"ds_version": _FORMAT, "param_groups": groups, "optimizer_state_dict": deeper}
    _save(folder / ZERO / OPTIMIZER_STATE, optimizer)
    model = {
        "module": None,
        "optimizer": None,
        "global_steps": step,
        "skipped_steps": step - updates,
        "dp_world_size": 1,
        "mp_world_size": 1,
        "ds_version": _FORMAT,
        "universal_checkpoint_info": {"universal_checkpoint_version": 0.4},
    }
    for file in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_model_states.pt"):
        _save(folder / file, model)
    (folder.parent / LATEST).write_text(folder.name, encoding="utf-8")
    _sync(folder.parent / LATEST)
    for written in (folder / ZERO, folder, folder.parent):
        sync_folder(written)


def _save(path: Path, content: Any) -> None:
    torch.save(content, path)
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
