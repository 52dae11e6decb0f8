"""From a command line to a running rank, or to several."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from data_pipeline.errors import DataError
from launcher.cluster.rendezvous import LOST_OTHERS, is_rank, own_arguments
from launcher.config import EngineConfig, RunConfig
from launcher.errors import UserError, os_error_sentence
from launcher.physics import require
from launcher.train.run_folder import RunFolder
from launcher.yaml_config import load
from megamodel.errors import ModelError


def main(arguments: Sequence[str]) -> int:
    """Train CONFIG with overrides; return the exit code. Mistakes are told in a sentence, by rank 0 alone."""
    arguments = own_arguments(arguments)
    try:
        if not arguments or arguments[0].startswith("-"):
            raise UserError("usage: python -m launcher.train CONFIG [key=value ...]")
        return run(Path(arguments[0]), arguments[1:])
    except (UserError, DataError, ModelError) as error:
        return _tell(str(error), getattr(error, "exit_code", 2))
    except OSError as error:
        return _tell(os_error_sentence(error), 2)
    except KeyboardInterrupt:
        return 130


def _tell(message: str, code: int) -> int:
    """Every rank finds the same mistake before they meet; the first says it."""
    if os.environ.get("RANK", "0") == "0":
        print(f"error: {message}", file=sys.stderr, flush=True)
    return code


def run(path: Path, overrides: Sequence[str]) -> int:
    """Be a rank where a launcher made this process one; else start as many ranks as the configuration wants."""
    loaded = load(path, RunConfig, overrides)
    config = loaded.value
    if is_rank():
        if int(os.environ.get("RANK", 0)) == 0:  # all ranks would find the same
            require(loaded, int(os.environ.get("WORLD_SIZE", 1)))
        return train_as_rank(config)
    ranks = config.engine.ranks or default_ranks(config.engine)
    for note in require(loaded, ranks):
        print(f"note: {note.setting}: {note.message}", file=sys.stderr, flush=True)
    if ranks == 1:
        return train_as_rank(config)
    from launcher.cluster.local import start_local

    return start_local([str(path), *overrides], ranks, RunFolder(config.run_dir).logs)


def default_ranks(engine: EngineConfig) -> int:
    """One rank a GPU, or one on a CPU; one for the engine `single`."""
    if engine.name == "single" or engine.device == "cpu":
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def train_as_rank(config: RunConfig) -> int:
    """Join the other ranks and train; a rank that fails says so under its number and returns the exit code."""
    from launcher.cluster.ranks import join, leave, lost_others
    from launcher.train.loop import train

    ranks = join(config.engine)
    try:
        train(config, ranks)
    except (UserError, DataError, ModelError) as error:
        if ranks.first:
            raise
        print(f"rank {ranks.rank}: {error}", file=sys.stderr, flush=True)
        return getattr(error, "exit_code", 2)
    except OSError as error:
        print(f"rank {ranks.rank}: {os_error_sentence(error)}", file=sys.stderr, flush=True)
        return 2
    except RuntimeError as error:
        if not lost_others(error):
            raise
        print(f"rank {ranks.rank}: another rank has gone or does not answer: {error}", file=sys.stderr, flush=True)
        return LOST_OTHERS
    finally:
        leave()
    return 0
