"""The entrance: `megamodel COMMAND ...` and `python -m launcher`. One module a command; this file only joins them."""

import importlib
import sys

import typer
from rich.console import Console
from rich.text import Text

from data_pipeline.errors import DataError
from launcher.errors import UserError
from megamodel.errors import ModelError

COMMANDS = ("config", "data", "train", "verify", "checkpoint", "inspect", "export", "generate", "bench", "quickstart")

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
        Console(stderr=True).print(Text("error: ", style="bold red"), Text(str(error)), sep="", soft_wrap=True)
        sys.exit(getattr(error, "exit_code", 2))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
