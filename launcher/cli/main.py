"""The entrance: `megamodel COMMAND ...` and `python -m launcher`. One module a command; this file only joins them."""

import importlib
import os
import sys

import typer
from rich.console import Console
from rich.text import Text

from data_pipeline.errors import DataError
from launcher.errors import UserError, os_error_sentence
from megamodel.errors import ModelError

COMMANDS = (
    "config",
    "data",
    "train",
    "verify",
    "checkpoint",
    "inspect",
    "export",
    "import_run",
    "generate",
    "bench",
    "quickstart",
)

app = typer.Typer(
    help="Pretrain large language models: raw text in, a checked, portable model out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _register() -> None:
    """Let each command module add its commands. They import torch only when a command runs, so --help stays quick."""
    for name in COMMANDS:
        importlib.import_module(f"launcher.cli.{name}").register(app)


def main() -> None:
    """Run the command line. Exit code 0: done; 1: a check failed; 2: a mistake in the command or the configuration."""
    _register()
    try:
        app()
    except (UserError, DataError, ModelError) as error:
        _tell(str(error))
        sys.exit(getattr(error, "exit_code", 2))
    except BrokenPipeError:  # the reader of our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        _tell(os_error_sentence(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _tell(message: str) -> None:
    Console(stderr=True).print(Text("error: ", style="bold red"), Text(message), sep="", soft_wrap=True)


if __name__ == "__main__":
    main()
