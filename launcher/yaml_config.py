"""Load a configuration: YAML files composed by `base:`, `key=value` overrides, one schema of pydantic models.

Every mistake is reported at once, each with its file, line, column and a remedy. Every value keeps its origin.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel

from launcher.errors import UserError
from launcher.settings.compose import Composer
from launcher.settings.entries import COMMAND_LINE, DEFAULT, Entry, Mistake, Origin, dotted
from launcher.settings.reader import Dumper
from launcher.settings.validate import validate

__all__ = [
    "COMMAND_LINE",
    "DEFAULT",
    "Loaded",
    "Mistake",
    "Origin",
    "dump",
    "examine",
    "load",
    "report",
    "top_level_names",
]

T = TypeVar("T", bound=BaseModel)


@dataclass
class Loaded(Generic[T]):
    """A checked configuration and where each of its values came from."""

    path: Path
    """The file that was asked for."""
    value: T
    raw: dict[str, Any]
    """What was written, merged, before defaults."""
    origins: dict[str, Origin]
    """Dotted name of every setting and group -> where it was written, or the origin "default"."""

    def origin(self, name: str) -> Origin:
        """The origin of a setting; of the nearest group above it when it has none of its own."""
        while name and name not in self.origins:
            name = name.rpartition(".")[0]
        return self.origins.get(name, Origin(DEFAULT))


def load(path: Path | str, schema: type[T], overrides: Sequence[str] = ()) -> Loaded[T]:
    """Read, compose and check a configuration. Raises UserError that lists every mistake."""
    loaded, mistakes = examine(path, schema, overrides)
    if mistakes or loaded is None:
        raise UserError(report(Path(path), mistakes))
    return loaded


def examine(path: Path | str, schema: type[T], overrides: Sequence[str] = ()) -> tuple[Loaded[T] | None, list[Mistake]]:
    """What `load` would return, and every mistake; it is there beside mistakes when those are only misfits.

    A misfit: each value is right alone, but not together with another (such as heads that do not divide the width).
    """
    composer = Composer()
    root = composer.compose(Path(path), overrides)
    value, mistakes = validate(root, schema, composer.incomplete)
    known = {(str(mistake.origin), mistake.setting) for mistake in composer.mistakes}
    mistakes = composer.mistakes + [m for m in mistakes if (str(m.origin), m.setting) not in known]
    if composer.mistakes or value is None:
        return None, mistakes
    return Loaded(Path(path), value, root.plain(), _origins(root, value)), mistakes


def dump(model: BaseModel) -> str:
    """YAML of a resolved configuration; `load` reads it back to an equal one."""
    return yaml.dump(model.model_dump(mode="json"), Dumper=Dumper, sort_keys=False, allow_unicode=True, width=1 << 20)


def top_level_names(path: Path | str, overrides: Sequence[str] = ()) -> set[str]:
    """The names at the top of a composed file, which tell what kind of configuration it is.

    Where a part of it cannot be read, the overrides' names tell too. Raises UserError when nothing tells.
    """
    composer = Composer()
    names = set(composer.compose(Path(path)).plain())
    if composer.incomplete:
        names |= {text.partition("=")[0].partition(".")[0].strip() for text in overrides}
        if not names:
            raise UserError(report(Path(path), composer.mistakes))
    return names


def report(path: Path, mistakes: Sequence[Mistake]) -> str:
    """The mistakes as one message: in the order of the files, then the lines; the command line last."""
    unique = list(dict.fromkeys(mistakes))
    unique.sort(key=lambda m: (m.origin.place == COMMAND_LINE, m.origin.place, m.origin.line, m.origin.column))
    if len(unique) == 1:
        return str(unique[0])
    return "\n  ".join([f"{len(unique)} mistakes in {path}:", *map(str, unique)])


def _origins(root: Entry, value: BaseModel) -> dict[str, Origin]:
    """Where each setting of the resolved tree came from, in the order of the schema."""
    written = {name: entry.origin for name, entry in root.walk()}
    names = dict.fromkeys(_names(value.model_dump(mode="json"), ""))
    return {name: written.get(name, Origin(DEFAULT)) for name in names}


def _names(value: Any, name: str) -> list[str]:
    """Dotted names of everything in a dumped model; a list of plain values is one value."""
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        value = {str(index): item for index, item in enumerate(value)}
    if not isinstance(value, dict):
        return []
    return [n for key, child in value.items() for n in [dotted(name, key), *_names(child, dotted(name, key))]]
