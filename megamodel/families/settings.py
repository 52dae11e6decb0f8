"""What the families share in comparing settings."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from megamodel.config import ModelConfig
from megamodel.errors import ModelError


def differences(config: ModelConfig, choices: Mapping[str, Any]) -> list[str]:
    """One phrase for each setting that is not what a family fixes it to."""
    return [
        f"{name}={_written(getattr(config, name))} must be {_written(value)}"
        for name, value in choices.items()
        if getattr(config, name) != value
    ]


def refuse_unless(name: str, value: Any, expected: Any) -> None:
    """ModelError when a published configuration asks for something that our decoder does not do."""
    if value != expected:
        raise ModelError(
            f"config.json: {name} is {_written(value)}; megamodel's decoder has only {_written(expected)} here"
        )


def drop_tied_copy(head: str, weights: dict[str, Tensor], table: Tensor) -> None:
    """Take a stored copy of a tied head out of `weights`; ModelError when it is not a copy of the embedding table."""
    copy = weights.pop(head, None)
    if copy is not None and not copy.equal(table):
        raise ModelError(f"{head} differs from the embedding table, but config.json says that they are tied")


def _written(value: Any) -> str:
    """A value as YAML and JSON write it."""
    return str(value).lower() if isinstance(value, bool) else str(value)
