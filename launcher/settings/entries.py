"""Settings with their origin: what the reader produces, the composer merges and the validator checks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

DEFAULT = "default"
COMMAND_LINE = "command line"


@dataclass(frozen=True)
class Origin:
    """Where a value was written. Lines and columns count from 1; 0 means that the place has none."""

    place: str
    """A file's path, "command line" or "default"."""
    line: int = 0
    column: int = 0
    layer: int = 0
    """Order of composition: a later layer overrides an earlier one."""

    def __str__(self) -> str:
        return f"{self.place}:{self.line}:{self.column}" if self.line else self.place


@dataclass
class Entry:
    """One node of a composed configuration; a mapping's children are located at their keys."""

    value: "str | int | float | bool | dict[str, Entry] | list[Entry] | None"
    origin: Origin

    def plain(self) -> Any:
        """The value without its origins."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def child(self, key: str | int) -> "Entry | None":
        """The entry below, by a mapping's key or a list's index (also as text); None when there is none."""
        if isinstance(self.value, dict):
            return self.value.get(str(key))
        if isinstance(self.value, list) and str(key).isdecimal() and int(key) < len(self.value):
            return self.value[int(key)]
        return None

    def walk(self, name: str = "") -> Iterator[tuple[str, "Entry"]]:
        """Every entry below with its dotted name, parents before children."""
        if isinstance(self.value, dict):
            children: list[tuple[str, Entry]] = list(self.value.items())
        elif isinstance(self.value, list):
            children = [(str(index), child) for index, child in enumerate(self.value)]
        else:
            return
        for key, child in children:
            yield dotted(name, key), child
            yield from child.walk(dotted(name, key))


@dataclass(frozen=True)
class Mistake:
    """One thing wrong with a configuration: where, which setting (empty: the file as a whole), what and the remedy."""

    origin: Origin
    setting: str
    message: str
    meant: str = ""
    """The setting that was probably meant; that it is missing is then no mistake of its own."""

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.origin), self.setting, self.message) if part)


def dotted(name: str, key: str) -> str:
    """The name of the setting `key` inside the group `name`."""
    return f"{name}.{key}" if name else key
