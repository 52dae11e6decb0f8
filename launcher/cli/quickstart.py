"""`megamodel quickstart`: the whole way on the sample corpus, on this machine."""

import os
import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from launcher.config import RunConfig

_DATA, _RUN = Path("configs/data/quickstart.yaml"), Path("configs/runs/quickstart.yaml")
_PROMPT = "The President of the United States"


def register(app: typer.Typer) -> None:
    """Add this module's commands to the command line."""
    app.command(name="quickstart")(quickstart)


def quickstart(
    out: Annotated[Path | None, typer.Option("--out", metavar="RUN", help="Folder of the run.")] = None,
) -> None:
    """Prepare the sample corpus, train a small GPT on it, evaluate, export, verify the export, generate."""
    from launcher.config import RunConfig
    from launcher.errors import CheckFailed, UserError
    from launcher.train.start import run
    from launcher.yaml_config import load

    if not _RUN.is_file():
        raise UserError(f"{_RUN} is not here; run quickstart from the project's folder")
    started = time.monotonic()
    _stage(1, "prepare the sample corpus: tokenizer and token shards", _DATA)
    _prepare()
    _stage(2, "train", _RUN)
    overrides = [f"run_dir={out}"] if out else []
    overrides += ["engine.ranks=1"] if _gpus() == 1 else []
    config = load(_RUN, RunConfig, overrides).value
    if code := run(_RUN, overrides):
        raise CheckFailed(f"training ended with exit code {code}; what it said is above")
    if _metrics(config.run_dir)[-1]["step"] < config.train.steps:
        raise CheckFailed("training was stopped before its last step; run quickstart again to go on")
    _stage(3, "export to the Hugging Face format, and verify with transformers in another process")
    export = config.run_dir / "export"
    report = _export(config.run_dir, export)
    _stage(4, "generate from the export")
    _generate(export)
    _summary(config, export, report, time.monotonic() - started)


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _stage(number: int, what: str, config: Path | None = None) -> None:
    print(f"\n== {number}/4 {what}" + (f" ({config})" if config else ""), flush=True)


def _prepare() -> None:
    from data_pipeline.config import PrepareConfig
    from data_pipeline.execute import prepare
    from launcher.yaml_config import load

    prepared = prepare(load(_DATA, PrepareConfig).value)
    for name, manifest in prepared.sets.items():
        print(f"{prepared.out / name}: {manifest.num_documents:,} documents, {manifest.num_tokens:,} tokens")


def _export(run: Path, out: Path) -> str:
    from tools.convert.export import export_hf

    exported = export_hf(run, out, force=True)
    worst = max(check.difference or 0.0 for check in exported.checks)
    print(
        f"{out}: {exported.bytes / 1e6:.1f} MB; {len(exported.checks)} checks with transformers "
        f"{exported.transformers} agree, the largest difference of a logit is {worst:.1e}"
    )
    return f"verified with transformers {exported.transformers}"


def _generate(export: Path) -> None:
    from tools.generate.generate import generate
    from tools.generate.sampling import Sampling

    text = generate(export, _PROMPT, 48, Sampling(temperature=0.8, top_k=40), seed=0).text
    print(f"{_PROMPT}{text}")


def _summary(config: "RunConfig", export: Path, report: str, seconds: float) -> None:
    """One screen: what was learned, how fast, where it lies, what to try next."""
    from launcher.monitor.console import clock, short

    before, after = _validations(config.run_dir)
    steps = _metrics(config.run_dir)
    speed = sorted(line["tokens_per_second"] for line in steps)[len(steps) // 2]
    ratio = after["validation_bits_per_byte"] / before["validation_bits_per_byte"]
    lines = [
        ("tokens", f"{steps[-1]['tokens']:,} in {len(steps)} steps"),
        ("loss", f"{before['validation_loss']:.3f} -> {after['validation_loss']:.3f} nats a token (validation)"),
        (
            "",
            f"{before['validation_bits_per_byte']:.3f} -> {after['validation_bits_per_byte']:.3f} bits a byte, "
            f"{ratio:.0%} of the untrained model's",
        ),
        ("throughput", f"{short(speed)} tokens/s (median step)"),
        ("whole way", clock(seconds)),
        ("run", f"{config.run_dir}  (metrics.jsonl, events.jsonl, checkpoints/, tensorboard/)"),
        ("data", f"{config.data.sources[0].path.parent}"),
        ("export", f"{export}  ({report})"),
    ]
    program = _program()
    tries = [
        f'{program} generate {export} --prompt "{_PROMPT}"',
        f"{program} inspect batch {config.run_dir} --step {steps[-1]['step'] // 2}",
        f"{program} verify resume {_RUN} train.stop_at_step=40",
    ]
    print("\n== what happened")
    print("\n".join(f"{name:<12}{value}" for name, value in lines))
    print("\nTry next:\n" + "\n".join(f"  {command}" for command in tries))


def _program() -> str:
    """The command as it can be typed here: by its name where the shell finds it, else by its path."""
    return "megamodel" if shutil.which("megamodel") else os.path.relpath(sys.argv[0])


def _metrics(run: Path) -> list[dict[str, Any]]:
    from launcher.monitor.events import read_json_lines
    from launcher.train.run_folder import RunFolder

    return read_json_lines(RunFolder(run).metrics)


def _validations(run: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The untrained model's validation, and the last one."""
    from launcher.monitor.events import read_events
    from launcher.train.run_folder import RunFolder

    untrained = next(e for e in read_events(RunFolder(run).events) if e["event"] == "validated")
    return untrained, [line for line in _metrics(run) if "validation_loss" in line][-1]
