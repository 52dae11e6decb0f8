"""Files with their bases and `key=value` arguments, merged into one tree of entries."""

import difflib
import os
from collections.abc import Sequence
from pathlib import Path

from launcher.settings.entries import COMMAND_LINE, Entry, Mistake, Origin
from launcher.settings.reader import parse

MAX_BYTES = 1 << 20


def merge(low: Entry, high: Entry) -> Entry:
    """`high` over `low`: mappings merge key by key, lists and scalars replace."""
    if not (isinstance(low.value, dict) and isinstance(high.value, dict)):
        return high
    merged = dict(low.value)
    for key, entry in high.value.items():
        merged[key] = merge(merged[key], entry) if key in merged else entry
    return Entry(merged, high.origin)


class Composer:
    """Composes one configuration and collects what is wrong on the way."""

    def __init__(self) -> None:
        self.mistakes: list[Mistake] = []
        self.incomplete = False
        """True when a file could not be read: what it would have set is then not reported as missing."""
        self._layers = 0

    def compose(self, path: Path, overrides: Sequence[str] = ()) -> Entry:
        """The tree of a file, its bases and the overrides; an empty mapping when the file cannot be read."""
        place = os.path.normpath(path)
        root = self._file(place, Origin(place), "", ())
        self._layers += 1
        for text in overrides:
            self._override(root, text)
        return root

    def _file(self, place: str, asked_at: Origin, setting: str, chain: tuple[str, ...]) -> Entry:
        """A file over its bases. `asked_at` and `setting` say who wants it, for the message when it is not there."""
        entry = self._read(place, asked_at, setting)
        if entry is None:
            self.incomplete = True
            return Entry({}, Origin(place))
        assert isinstance(entry.value, dict)
        base = entry.value.pop("base", None)
        bases = self._bases(base, place, (*chain, place)) if base is not None else Entry({}, Origin(place))
        self._layers += 1
        _stamp(entry, self._layers)
        return merge(bases, entry)

    def _bases(self, base: Entry, place: str, chain: tuple[str, ...]) -> Entry:
        """The files that `base:` names, later ones over earlier ones."""
        merged = Entry({}, Origin(place))
        for item in base.value if isinstance(base.value, list) else [base]:
            if not isinstance(item.value, str) or not item.value:
                self.mistakes.append(Mistake(item.origin, "base", "must be the path of a file or a list of paths"))
                continue
            target = os.path.normpath(Path(place).parent / item.value)
            if target in chain:
                self.incomplete = True
                circle = " -> ".join((*chain[chain.index(target) :], target))
                self.mistakes.append(Mistake(item.origin, "base", f"goes round in a circle: {circle}"))
                continue
            merged = merge(merged, self._file(target, item.origin, "base", chain))
        return merged

    def _read(self, place: str, asked_at: Origin, setting: str) -> Entry | None:
        """The mapping in one file; None, with the mistake noted, when there is none."""
        try:
            text = read_text(Path(place))
        except ValueError as error:
            self.mistakes.append(Mistake(asked_at, setting, str(error)))
            return None
        entry = parse(text, lambda mark: _in_file(place, mark), self.mistakes)
        if entry is None:
            return None
        if entry.value is None and entry.origin.line == 0:
            message = "the file is empty; write settings such as `seed: 1` in it"
            self.mistakes.append(Mistake(Origin(place), "", message))
        elif not isinstance(entry.value, dict):
            message = "a configuration is a list of `setting: value` lines; is a space missing after a colon?"
            self.mistakes.append(Mistake(entry.origin, "", message))
        else:
            return Entry(entry.value, Origin(place))
        return None

    def _override(self, root: Entry, text: str) -> None:
        """Apply one `a.b.c=value`."""
        origin = Origin(COMMAND_LINE, layer=self._layers)
        name, equals, value_text = text.partition("=")
        keys = name.strip().split(".")
        if not equals or not all(keys):
            message = f"{text!r} is not of the form setting=value, such as train.steps=100"
            self.mistakes.append(Mistake(origin, "", message))
            return
        mistakes: list[Mistake] = []
        entry = parse(value_text, lambda _: origin, mistakes)
        self.mistakes += [Mistake(m.origin, f"{name.strip()}.{m.setting}".rstrip("."), m.message) for m in mistakes]
        if entry is not None:
            self._set(root, keys, Entry(entry.value, origin))

    def _set(self, root: Entry, keys: list[str], entry: Entry) -> None:
        group = root
        for depth, key in enumerate(keys):
            last = depth == len(keys) - 1
            if isinstance(group.value, list):
                below = group.child(key)
                if below is None:
                    message = f"is a list of {len(group.value)}, counted from 0; there is no item {key!r} in it"
                    self.mistakes.append(Mistake(entry.origin, ".".join(keys[:depth]), message))
                    return
                if last:
                    group.value[int(key)] = merge(below, entry)
            else:
                if not isinstance(group.value, dict):
                    group.value, group.origin = {}, entry.origin
                below = group.value.setdefault(key, Entry({}, entry.origin))
                if last:
                    group.value[key] = merge(below, entry)
            group = below


def read_text(path: Path) -> str:
    """A configuration file's text. Raises ValueError with a sentence when it cannot be one."""
    try:
        if path.is_dir():
            raise ValueError(f"{path} is a folder, not a file")
        if not path.exists():
            raise ValueError(f"there is no file {path}{_alike(path)}")
        if not path.is_file() or path.stat().st_size > MAX_BYTES:
            raise ValueError(f"{path} is not a configuration file: it is larger than {MAX_BYTES >> 20} MiB or a device")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not a text file: byte {error.start} is not UTF-8") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None


def _alike(path: Path) -> str:
    """`; did you mean X?` when the folder has a file of a similar name."""
    if not path.parent.is_dir():
        return f" (nor a folder {path.parent})"
    names = sorted(other.name for other in path.parent.iterdir())
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _in_file(place: str, mark: object) -> Origin:
    line, column = getattr(mark, "line", -1) + 1, getattr(mark, "column", -1) + 1
    return Origin(place, line, column)


def _stamp(entry: Entry, layer: int) -> None:
    """Give every entry of one file its place in the order of composition."""
    for _, child in entry.walk():
        origin = child.origin
        child.origin = Origin(origin.place, origin.line, origin.column, layer)
