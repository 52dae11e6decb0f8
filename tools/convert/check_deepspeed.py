"""`python -m tools.convert.check_deepspeed FOLDER EXPECTED`: does DeepSpeed find in an export what we put in?

A process of its own that imports nothing of ours: a module with the checkpoint's parameters, an engine of each way that
DeepSpeed has to load, `load_checkpoint`, and the digest of every value it then holds. Prints JSON; exit code 0: all
are those expected, 1: some are not.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

STAGES = (1, 3)
"""ZeRO 2 loads with the code of ZeRO 1."""


def check_folder(folder: Path, expected: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """One finding for each stage. `expected`: shapes by name, digests by kind and name, step and updates."""
    for stage in STAGES:
        problem = next(_problems(_load(folder, expected, stage), expected), "")
        count = 3 * len(expected["shapes"])
        yield {
            "name": f"ZeRO-{stage} engine",
            "compared": f"{count} tensors, bit for bit, and the step",
            "problem": problem,
        }


def _module(shapes: dict[str, list[int]]) -> Any:
    """A module tree with a parameter of each dotted name."""
    import torch
    from torch import nn

    root = nn.Module()
    for name, shape in shapes.items():
        *path, last = name.split(".")
        node = root
        for part in path:
            if not hasattr(node, part):
                node.add_module(part, nn.Module())
            node = getattr(node, part)
        node.register_parameter(last, nn.Parameter(torch.zeros(shape)))
    return root


def _load(folder: Path, expected: dict[str, Any], stage: int) -> Any:
    import deepspeed
    import torch

    module = _module(expected["shapes"])
    settings = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_allow_untested_optimizer": True,
        "zero_optimization": {"stage": stage},
        "checkpoint": {"load_universal": True},
    }
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.5)
    engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings)
    engine.load_checkpoint(str(folder))
    return engine


def _problems(engine: Any, expected: dict[str, Any]) -> Iterator[str]:
    import torch
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    if engine.global_steps != expected["step"]:
        yield f"it goes on from step {engine.global_steps}, not {expected['step']}"
    counts = {float(state["step"]) for state in engine.optimizer.optimizer.state.values() if "step" in state}
    if counts != {float(expected["updates"])}:
        yield f"its optimizer counts {sorted(counts)} updates, not {expected['updates']}"
    for name, parameter in engine.module.named_parameters():
        for kind, digests in expected["digests"].items():
            value = (
                safe_get_full_fp32_param(parameter)
                if kind == "param"
                else safe_get_full_optimizer_state(parameter, kind)
            )
            data = value.detach().contiguous().view(-1).view(torch.uint8).numpy().data
            if hashlib.blake2b(data, digest_size=16).hexdigest() != digests[name]:
                yield f"{kind} of {name} is another one"


def main() -> int:
    """Run the checks, print what they found as JSON, return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("expected", type=Path)
    arguments = parser.parse_args()
    os.environ |= {"DS_ACCELERATOR": "cpu", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    found: list[dict[str, Any]] = []
    try:
        import deepspeed
        import torch.distributed as dist

        # Without this it compiles a shared-memory all-reduce into the home folder, and waits there for a lock that a
        # killed compilation has left behind.
        deepspeed.ops.__compatible_ops__ = {}
        with tempfile.TemporaryDirectory() as meeting_place:
            dist.init_process_group("gloo", init_method=f"file://{meeting_place}/store", rank=0, world_size=1)
            deepspeed.init_distributed("gloo")
            found.extend(check_folder(arguments.folder, json.loads(arguments.expected.read_text())))
            dist.destroy_process_group()
        version = deepspeed.__version__
    except Exception as error:  # whatever DeepSpeed raises, the answer is that it cannot read the folder
        version = ""
        found.append({"name": "DeepSpeed loads it", "compared": "", "problem": f"{type(error).__name__}: {error}"})
    print(json.dumps({"deepspeed": version, "checks": found}))
    return 0 if not any(check["problem"] for check in found) else 1


if __name__ == "__main__":
    sys.exit(main())
