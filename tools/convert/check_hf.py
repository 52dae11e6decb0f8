"""`python -m tools.convert.check_hf --pair FOLDER REFERENCE ...`: does transformers make of exports what we do?

A process of its own that imports nothing of ours: only the folder and the reference's numbers stand behind the answer.
Prints JSON; exit code 0: everything agrees, 1: something does not.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

TOLERANCE = 1e-4
"""Largest difference of two fp32 logits, as a part of the largest logit of the prompt."""


@dataclass(frozen=True)
class Check:
    """One comparison: what, how much of it, how far apart, how far is allowed."""

    name: str
    compared: str
    difference: float | None
    tolerance: float | None
    ok: bool
    problem: str = ""


def check_folder(folder: Path, reference: Path) -> Iterator[Check]:
    """Load an export with transformers and compare it with the reference, one prompt and one text at a time."""
    tensors, texts, label = read_reference(reference)
    model, loading = _load_model(folder)
    yield replace(loading, name=label + loading.name)
    if loading.ok:
        for name in tensors:
            if name.endswith("/logits"):
                prompt = name.removesuffix("/logits")
                yield _check_logits(label, model, *(tensors[f"{prompt}/{part}"] for part in ("ids", "at", "logits")))
    if texts:
        yield _check_tokenizer(
            folder, texts, [tensors[f"text/{i}"].tolist() for i in range(len(texts))], int(tensors["eos"])
        )


def read_reference(path: Path) -> tuple[dict[str, Any], list[str], str]:
    """Tensors, texts and the label that `tools.convert.reference.write_reference` saved."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return tensors, json.loads(file.metadata()["texts"]), file.metadata()["label"]


def _load_model(folder: Path) -> tuple[Any, Check]:
    import torch
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
    )
    model, info = loaded
    kinds = ("missing_keys", "unexpected_keys", "mismatched_keys")
    problems = [f"{kind.replace('_', ' ')}: {sorted(map(str, info[kind]))[:3]}" for kind in kinds if info.get(kind)]
    count = len(model.state_dict())
    return model.eval(), Check("names and shapes", f"{count} tensors", None, None, not problems, "; ".join(problems))


def _check_logits(label: str, model: Any, ids: Any, positions: Any, expected: Any) -> Check:
    """The two largest logits may change places only when they are nearer to each other than the tolerance."""
    import torch

    with torch.no_grad():
        logits = model(ids[None]).logits[0, positions].float()
    name, compared = f"{label}logits of a prompt of {len(ids)} tokens", f"{len(positions)} x {expected.shape[1]} logits"
    if logits.shape != expected.shape:
        return Check(name, compared, None, None, False, f"{logits.shape[1]} logits instead of {expected.shape[1]}")
    difference = float((logits - expected).abs().max())
    tolerance = TOLERANCE * float(expected.abs().max())
    top, chosen = expected.topk(2).values, logits.argmax(dim=-1) == expected.argmax(dim=-1)
    decided = top[:, 0] - top[:, 1] > tolerance
    problem = "" if difference <= tolerance else f"they differ by {difference:.2e}, {tolerance:.1e} is allowed"
    if not bool((chosen | ~decided).all()):
        problem = f"another token is the likeliest, and {problem or 'no tie explains it'}"
    return Check(name, compared, difference, tolerance, not problem, problem)


def _check_tokenizer(folder: Path, texts: list[str], expected: list[list[int]], eos: int) -> Check:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    found = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    wrong = [text for text, ids, ours in zip(texts, found, expected, strict=True) if ids != ours]
    problem = f"other ids for {wrong[0]!r}" if wrong else ""
    if tokenizer.eos_token_id != eos:
        problem = f"eos is {tokenizer.eos_token_id} instead of {eos}"
    return Check("tokenizer", f"{len(texts)} texts, {sum(map(len, expected))} ids", None, None, not problem, problem)


def main() -> int:
    """Run the checks, print what they found as JSON, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pair", nargs=2, type=Path, action="append", required=True, metavar=("FOLDER", "REFERENCE"))
    arguments = parser.parse_args()
    os.environ |= {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error", "TOKENIZERS_PARALLELISM": "false"}
    checks: list[Check] = []
    try:
        for folder, reference in arguments.pair:
            checks.extend(check_folder(folder, reference))
    except Exception as error:  # whatever transformers raises, the answer is that it cannot read the folder
        checks.append(Check("transformers reads the folder", "", None, None, False, f"{type(error).__name__}: {error}"))
    import transformers

    print(json.dumps({"transformers": transformers.__version__, "checks": [asdict(check) for check in checks]}))
    return 0 if all(check.ok for check in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
