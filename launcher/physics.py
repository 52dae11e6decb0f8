"""What the schema cannot know: whether the settings fit each other, the ranks, the data and the disk."""

import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from data_pipeline.config import PrepareConfig
from data_pipeline.errors import DataError
from data_pipeline.execute.stages.tokenizer import configured
from data_pipeline.read import expand
from data_pipeline.tokenizer.settings import LoadTokenizer
from launcher.config import RunConfig, WsdSchedule
from launcher.data_checks import data_problems
from launcher.engine_checks import engine_problems
from launcher.errors import UserError
from launcher.layout_checks import layout_problems
from launcher.problems import Problem, error, note
from launcher.settings.entries import Mistake
from launcher.yaml_config import Loaded, examine, load, report
from megamodel.config import ModelConfig

BYTES_PER_PARAMETER = 12
"""In a checkpoint: the fp32 weight and AdamW's two fp32 moments."""


def check_run(path: Path, overrides: Sequence[str], also: Callable[[RunConfig], Iterable[Problem]]) -> list[Problem]:
    """The notes about a run's file. Raises UserError that lists every mistake: the schema's, the run's and `also`'s."""
    loaded, mistakes = examine(path, RunConfig, overrides)
    if loaded is None:
        raise UserError(report(path, mistakes))
    problems = [*check(loaded.value), *also(loaded.value)]
    _refuse(loaded, problems, mistakes)
    return _notes(problems)


def check_prepare(path: Path, overrides: Sequence[str] = ()) -> None:
    """Check a data preparation's file. Raises UserError that lists every mistake, or what is not where it says."""
    loaded = load(path, PrepareConfig, overrides)
    _refuse(loaded, _inputs(loaded.value))


def require(loaded: Loaded[RunConfig], world_size: int | None = None) -> list[Problem]:
    """The notes about a run. Raises UserError that lists every error with the place where its setting was written."""
    problems = check(loaded.value, world_size)
    _refuse(loaded, problems)
    return _notes(problems)


def _notes(problems: Iterable[Problem]) -> list[Problem]:
    return [problem for problem in problems if problem.severity == "note"]


def _refuse(loaded: Loaded[Any], problems: Iterable[Problem], mistakes: Sequence[Mistake] = ()) -> None:
    """Raise UserError that lists `mistakes`, known before, and the errors with their places, if there are any."""
    errors = [Mistake(loaded.origin(p.setting), p.setting, p.message) for p in problems if p.severity == "error"]
    if errors or mistakes:
        raise UserError(report(loaded.path, [*mistakes, *errors]))


def check(config: RunConfig, world_size: int | None = None) -> list[Problem]:
    """Everything about a run that does not fit or is worth knowing.

    `world_size` is the number of ranks when they are already running; None: as engine.ranks says.
    """
    ranks = world_size or config.engine.ranks or (1 if config.engine.name == "single" else None)
    return [
        *layout_problems(config, ranks),
        *engine_problems(config),
        *_schedule(config),
        *_positions(config),
        *data_problems(config),
        *_disk(config),
    ]


def num_parameters(config: ModelConfig) -> int:
    """Elements of all weights; a tied head counts once."""
    width, hidden = config.hidden_size, config.intermediate_size
    queries, keys = config.num_attention_heads * config.size_per_head, config.kv_heads * config.size_per_head
    norm = width * (2 if config.norm == "layernorm" else 1)
    attention = width * (2 * queries + 2 * keys) + config.attention_bias * (queries + 2 * keys + width)
    inner = 2 if config.activation == "swiglu" else 1
    mlp = (inner + 1) * width * hidden + config.mlp_bias * (inner * hidden + width)
    positions = config.max_position_embeddings * width if config.position_embedding == "learned" else 0
    tables = config.vocab_size * width * (1 if config.tie_word_embeddings else 2)
    return tables + positions + config.num_hidden_layers * (2 * norm + attention + mlp) + norm


def _schedule(config: RunConfig) -> Iterator[Problem]:
    """Warm-up, decay, stops and saves lie within the steps."""
    steps, schedule, checkpoint = config.train.steps, config.optimizer.schedule, config.checkpoint
    if schedule.warmup_steps > steps:
        yield error("optimizer.schedule.warmup_steps", f"{schedule.warmup_steps} is more than train.steps={steps}")
    elif isinstance(schedule, WsdSchedule) and schedule.warmup_steps + schedule.decay_steps > steps:
        both = f"warmup_steps {schedule.warmup_steps} + decay_steps {schedule.decay_steps}"
        yield error("optimizer.schedule.decay_steps", f"{both} is more than train.steps={steps}")
    stop = config.train.stop_at_step
    if stop is not None and stop > steps:
        yield error("train.stop_at_step", f"{stop} is after the last step, train.steps={steps}")
    permanent = checkpoint.permanent_every_steps
    if permanent is not None and permanent % checkpoint.every_steps:
        every = checkpoint.every_steps
        near = " or ".join(str(n) for n in (permanent // every * every, (permanent // every + 1) * every) if n)
        message = f"{permanent} is no multiple of checkpoint.every_steps={every}; the nearest: {near}"
        yield error("checkpoint.permanent_every_steps", message)


def _positions(config: RunConfig) -> Iterator[Problem]:
    """Whether the model is made for sequences so long; one with learned positions cannot take longer ones at all."""
    seq_len, longest = config.train.seq_len, config.model.max_position_embeddings
    if seq_len > longest and config.model.position_embedding == "rope":
        message = f"{seq_len} tokens is more than model.max_position_embeddings={longest}, which the export will state"
        yield note("train.seq_len", message)


def _existing(path: Path) -> Path:
    """The path itself or the nearest one above it that exists."""
    path = path.absolute()
    return next(p for p in [path, *path.parents] if os.path.lexists(p))


def _folder(setting: str, path: Path) -> Iterator[Problem]:
    """A folder that is to be written is one, or can be made."""
    there = _existing(path)
    if not there.is_dir():
        yield error(setting, f"{there} is not a folder; choose another place or move it away")
    elif not os.access(there, os.W_OK | os.X_OK):
        yield error(setting, f"the folder {there} cannot be written; choose another place or change its permissions")


def _inputs(config: PrepareConfig) -> Iterator[Problem]:
    """The corpus and the tokenizer are there, and the result has a place."""
    for number, source in enumerate(config.sources):
        for index, pattern in enumerate(source.files if source.kind == "files" else []):
            try:
                expand(source.model_copy(update={"files": [pattern]}))
            except DataError as problem:
                yield error(f"sources.{number}.files.{index}", str(problem))
    if isinstance(config.tokenizer, LoadTokenizer):
        try:
            configured(config.tokenizer)
        except DataError as problem:
            yield error("tokenizer.path", str(problem))
    yield from _folder("out", config.out)


def _disk(config: RunConfig) -> Iterator[Problem]:
    """The run's folder can be made, and its disk has room for the checkpoints that will lie there at once."""
    yield from (problems := list(_folder("run_dir", config.run_dir)))
    if not problems:
        yield from _room(config)


def _room(config: RunConfig) -> Iterator[Problem]:
    """The checkpoints that will lie there at once fit on the disk, beside those that already do."""
    one = BYTES_PER_PARAMETER * num_parameters(config.model)
    permanent = config.checkpoint.permanent_every_steps
    last = config.train.stop_at_step or config.train.steps
    kept = last // permanent if permanent else 0
    count = min(config.checkpoint.keep + 1 + kept, -(-last // config.checkpoint.every_steps))
    there = _size_of(config.run_dir / "checkpoints")
    folder = _existing(config.run_dir)
    free = shutil.disk_usage(folder).free
    sizes = f"up to {count} checkpoint{'s' * (count > 1)} of {_bytes(one)}"
    if count * one - there > free:
        message = f"{sizes} need {_bytes(count * one)}, and {folder} has {_bytes(free)} free; lower checkpoint.keep"
        yield error("run_dir", message + " or permanent checkpoints, or use another disk")
    else:
        yield note("run_dir", f"{sizes}; {_bytes(free)} free")


def _size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else 0


def _bytes(count: float) -> str:
    power = min(4, int(math.log10(max(count, 1)) // 3))
    return f"{count / 1000**power:,.1f} {('B', 'kB', 'MB', 'GB', 'TB')[power]}"
