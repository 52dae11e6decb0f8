"""Export a trained model and prove it: what stands in the end has been read back by software we did not write."""

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from data_pipeline.tokenizer import Tokenizer
from launcher.errors import CheckFailed, UserError
from megamodel.config import ModelConfig
from megamodel.families import family_of
from tools.convert.check_hf import Check
from tools.convert.hf_read import CONFIG
from tools.convert.hf_write import write_hf
from tools.convert.out_folder import aside, check_free, check_space, check_writable, put_in_place
from tools.convert.probe import make_probe, write_probe
from tools.convert.reference import make_reference, write_reference
from tools.convert.source import Source, open_source
from tools.convert.tokenizer import check_tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Types that weights can be exported in."""


@dataclass(frozen=True)
class Exported:
    """A finished export: where, of what, as which family, and every comparison that it passed."""

    out: Path
    source: str
    family: str
    dtype: str
    bytes: int
    transformers: str
    checks: list[Check]
    notes: list[str]


def export_hf(run: Path, out: Path, step: int | None = None, dtype: str = "float32", force: bool = False) -> Exported:
    """Write a run's model as a Hugging Face folder, and have transformers confirm its logits in another process.

    A second model with random weights goes the same way, for those of a short run would hide small mistakes.
    The folder appears under its name only when every check has passed; otherwise CheckFailed, and nothing is left.
    With bfloat16 the logits compared are those of the rounded weights, computed in fp32 on both sides.
    """
    _check_can_start(out, force)
    check_writable(out)
    source = open_source(run, step)
    family = family_of(source.config)
    source = replace(source, weights={name: t.to(DTYPES[dtype]) for name, t in source.weights.items()})
    tokenizer = Tokenizer.load(source.tokenizer)
    spelling = check_tokenizer(tokenizer)
    config, weights, notes = _trim(source, tokenizer)
    probe = make_probe(source, config, DTYPES[dtype])
    size = sum(tensor.nbytes for tensor in weights.values())
    check_space(out.parent, size + sum(tensor.nbytes for tensor in probe.weights.values()))
    with aside(out) as folder:
        write_hf(folder, config, weights, source.tokenizer)
        version, checks = _verify(folder, source, probe)
        put_in_place(folder, out)
    return Exported(out, source.name, family.NAME, dtype, size, version, checks, source.notes + notes + spelling)


def _check_can_start(out: Path, force: bool) -> None:
    if importlib.util.find_spec("transformers") is None:
        raise UserError(
            "an export is proved by transformers, which is not installed here: pip install 'megamodel[transformers]'"
        )
    check_free(out, CONFIG, "export", force)


def _trim(source: Source, tokenizer: Tokenizer) -> tuple[ModelConfig, dict[str, Tensor], list[str]]:
    """Drop the vocabulary's rows beyond the tokenizer: they are padding, and readers would let them be sampled."""
    rows, tokens = source.config.vocab_size, tokenizer.vocab_size
    if tokens > rows:
        raise UserError(
            f"{source.tokenizer} has {tokens} tokens, the model only {rows}: it is not this model's tokenizer."
        )
    if tokens == rows:
        return source.config, source.weights, []
    tables = ("embed_tokens.weight", "lm_head.weight")
    weights = {name: t[:tokens] if name in tables else t for name, t in source.weights.items()}
    note = f"the vocabulary is cut from {rows} rows to the tokenizer's {tokens}: the others were padding"
    return source.config.model_copy(update={"vocab_size": tokens}), weights, [note]


def _verify(folder: Path, source: Source, probe: Source) -> tuple[str, list[Check]]:
    """Version of transformers and its findings; CheckFailed names the first that disagrees."""
    reference = folder.parent / "reference.safetensors"
    write_reference(reference, make_reference(source.build(), Tokenizer.load(source.tokenizer)))
    # On the CPU, where fp32 is fp32: a GPU may round its products to tf32.
    command = [sys.executable, "-P", "-m", "tools.convert.check_hf", "--pair", str(folder), str(reference)]
    command += ["--pair", *map(str, write_probe(folder.parent, probe))]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    )
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, ValueError):
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise CheckFailed(f"{source.name}: the checking process broke off, so nothing was exported: {reason}") from None
    checks = [Check(**check) for check in answer["checks"]]
    for check in checks:
        if not check.ok:
            raise CheckFailed(
                f"{source.name}: transformers {answer['transformers']} disagrees, so nothing was exported: "
                f"{check.name}: {check.problem}. This is a fault in megamodel's conversion; please report it."
            )
    return answer["transformers"], checks
