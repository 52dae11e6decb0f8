"""Export a run as a DeepSpeed universal checkpoint, which plain DeepSpeed continues, and have DeepSpeed prove it."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from data_pipeline.progress import progress
from launcher.errors import CheckFailed, UserError
from launcher.train.run_folder import RunFolder, load_config
from megamodel.checkpoint import WEIGHTS_ONLY, Manifest, read_manifest, read_tensors
from megamodel.config import ModelConfig
from megamodel.families import family_of
from tools.convert.check_hf import Check
from tools.convert.foreign import KINDS
from tools.convert.out_folder import aside, check_free, check_space, check_writable, put_in_place
from tools.convert.source import find_checkpoint
from tools.convert.universal_write import LATEST, folder_name, write_states, write_tensors

Names = Literal["ours", "hf"]
"""Names of the parameters in the module that loads: megamodel's, or those of the family's class in transformers."""

_NOTES = [
    "learning rate, betas, decay and schedule stay those of DeepSpeed's script; with a scheduler, load with "
    "load_checkpoint(..., load_lr_scheduler_states=False)",
    "ZeRO-3 loads one step counter into all groups of the optimizer, and each counts it up: with more groups than one "
    "(or over 1e9 parameters) give each a clone of it after loading",
    "without zero_optimization.round_robin_gradients: DeepSpeed 0.19.8 then puts values into wrong parameters",
]


@dataclass(frozen=True)
class ExportedUniversal:
    """A finished export: where, of what, under which names, and every comparison that it passed."""

    out: Path
    source: str
    names: str
    step: int
    optimizer_updates: int
    bytes: int
    deepspeed: str
    checks: list[Check]
    notes: list[str]


def export_deepspeed(
    run: Path, out: Path, step: int | None = None, names: Names = "ours", force: bool = False
) -> ExportedUniversal:
    """Write weights, moments and step of a run's checkpoint as OUT/global_stepN_universal, and OUT/latest_universal.

    With our names one tensor is in memory at a time, with Hugging Face's all of one kind. The folder appears under its
    name only when DeepSpeed, in another process and with memory for the whole state, has loaded it into engines of
    ZeRO 1 and 3 and holds the same bits; otherwise CheckFailed, and nothing is left.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise UserError(
            "this export is proved by DeepSpeed, which is not installed here: pip install 'megamodel[deepspeed]'"
        )
    check_free(out, LATEST, "export of this format", force)
    config = load_config(run).model
    checkpoint, notes = find_checkpoint(RunFolder(run), step)
    manifest = read_manifest(checkpoint)
    if manifest.optimizer == WEIGHTS_ONLY:
        raise UserError(
            f"{checkpoint} has no optimizer state, so DeepSpeed could not go on; export it with --format hf."
        )
    size = sum(4 * torch.Size(entry.shape).numel() for entry in manifest.tensors.values())
    check_writable(out)
    check_space(out.parent, size)
    with aside(out) as made:
        expected = _write(made / folder_name(manifest.step), checkpoint, manifest, config, names, size)
        version, checks = _verify(made, expected, checkpoint)
        put_in_place(made, out)
    notes += _NOTES
    source = f"{run} ({checkpoint.name})"
    return ExportedUniversal(
        out, source, names, manifest.step, manifest.optimizer_updates, size, version, checks, notes
    )


def _write(
    folder: Path, checkpoint: Path, manifest: Manifest, config: ModelConfig, names: Names, size: int
) -> dict[str, Any]:
    """Fill the folder; return what DeepSpeed must find in it."""
    digests: dict[str, dict[str, str]] = {}
    shapes: dict[str, list[int]] = {}
    with progress("exporting", size) as advance:

        def watched(tensors: Iterable[tuple[str, Tensor]]) -> Iterable[tuple[str, Tensor]]:
            for name, tensor in tensors:
                shapes[name] = list(tensor.shape)
                yield name, tensor
                advance(tensor.nbytes)

        for kind in KINDS:
            digests[kind] = write_tensors(folder, kind, watched(_tensors(checkpoint, kind, config, names)))
    write_states(folder, shapes, manifest.step, manifest.optimizer_updates)
    return {"shapes": shapes, "digests": digests, "step": manifest.step, "updates": manifest.optimizer_updates}


def _tensors(checkpoint: Path, kind: str, config: ModelConfig, names: Names) -> Iterable[tuple[str, Tensor]]:
    """The tensors of a kind under the chosen names. A moment has the layout of its weight."""
    prefix = f"{kind}/"
    ours = ((name.removeprefix(prefix), tensor) for name, tensor in read_tensors(checkpoint, prefix))
    return ours if names == "ours" else family_of(config).weights_to_hf(config, dict(ours)).items()


def _verify(folder: Path, expected: dict[str, Any], checkpoint: Path) -> tuple[str, list[Check]]:
    """Version of DeepSpeed and its findings; CheckFailed names the first that disagrees."""
    file = folder.parent / "expected.json"
    file.write_text(json.dumps(expected))
    command = [sys.executable, "-P", "-m", "tools.convert.check_deepspeed", str(folder), str(file)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    )
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise CheckFailed(f"{checkpoint}: the checking process broke off, so nothing was exported: {reason}") from None
    checks = [Check(c["name"], c["compared"], None, None, not c["problem"], c["problem"]) for c in answer["checks"]]
    for check in checks:
        if not check.ok:
            raise CheckFailed(
                f"{checkpoint}: DeepSpeed {answer['deepspeed']} disagrees, so nothing was exported: "
                f"{check.name}: {check.problem}. This is a fault in megamodel's conversion; please report it."
            )
    return answer["deepspeed"], checks
