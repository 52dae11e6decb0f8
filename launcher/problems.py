"""What a check of the settings finds."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Problem:
    """What does not fit (error: the run cannot work) or is worth knowing (note)."""

    severity: Literal["error", "note"]
    setting: str
    """Dotted name of the setting to look at first."""
    message: str


def error(setting: str, message: str) -> Problem:
    """The run cannot work."""
    return Problem("error", setting, message)


def note(setting: str, message: str) -> Problem:
    """Worth knowing."""
    return Problem("note", setting, message)
