"""A configuration in words: each value beside its origin, each setting with its meaning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from launcher.errors import UserError
from launcher.settings.entries import Origin, dotted
from launcher.settings.kinds import kind_of, schemas
from launcher.settings.names import advise
from launcher.settings.reader import parse
from launcher.settings.schema import Setting, settings_of
from launcher.yaml_config import Loaded, dump, load


def with_origins(loaded: Loaded[Any]) -> str:
    """The resolved YAML with a comment behind each value that says where it came from."""
    text = dump(loaded.value)
    tree = parse(text, lambda mark: Origin("", getattr(mark, "line", -1) + 1), [])
    assert tree is not None
    written = {entry.origin.line: name for name, entry in tree.walk() if name in loaded.origins}
    groups = {entry.origin.line for name, entry in tree.walk() if isinstance(entry.value, dict) and entry.value}
    lines = text.splitlines()
    width = min(60, max(map(len, lines)))
    for number, line in enumerate(lines, start=1):
        name = written.get(number)
        if name is not None and not (number in groups and line.endswith(":")):
            lines[number - 1] = f"{line:<{width}}  # {loaded.origins[name]}"
    return "\n".join(lines) + "\n"


def json_schema(schema: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of one file: a base may give any part of the whole, so nothing is required of a single file."""
    described = schema.model_json_schema()
    for model in (described, *described.get("$defs", {}).values()):
        model.pop("required", None)
    paths = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    described["properties"]["base"] = paths | {"description": "Files that this one builds on, relative to it."}
    return described


def explanations(targets: Sequence[str]) -> list[dict[str, Any]]:
    """What each target means: a setting, or every setting of a file; settings beside a file get their value in it.

    Raises UserError for a name that is no setting, with the one that was probably meant.
    """
    files = [Path(target) for target in targets if target.endswith((".yaml", ".yml")) or Path(target).is_file()]
    names = [target for target in targets if Path(target) not in files]
    if len(files) > 1:
        raise UserError(f"one file at a time: {', '.join(map(str, files))}")
    if not files:
        return [found for name in names for found in _described(name, list(schemas().values()), None)]
    schema = schemas()[kind_of(files[0])]
    loaded = load(files[0], schema)
    return [found for name in names or [""] for found in _described(name, [schema], loaded)]


def in_words(found: dict[str, Any]) -> str:
    """One explanation as a few lines."""
    lines = [found["name"], f"  {found['doc']}", f"  type: {found['type']}"]
    if found["when"]:
        lines.append(f"  only with: {found['when']}")
    if not found["group"]:
        lines.append("  required" if found["required"] else f"  default: {_shown(found['default'])}")
    if "value" in found:
        lines.append(f"  value: {_shown(found['value'])} ({found['origin']})")
    return "\n".join(lines) + "\n"


def _described(name: str, kinds: Sequence[type[BaseModel]], loaded: Loaded[Any] | None) -> list[dict[str, Any]]:
    """The setting and, for a group, every setting in it; an empty name is the whole schema."""
    if loaded is not None:
        _require_items(name, loaded)
    generic = ".".join("N" if part.isdecimal() else part for part in name.split("."))
    for schema in kinds:
        settings = list(settings_of(schema))
        chosen = [s for s in settings if not name or s.name == generic or s.name.startswith(generic + ".")]
        if loaded is not None:
            chosen = [s for s in chosen if not _of_another_choice(s.when, name, loaded)]
        if chosen:
            return [_explained(setting, name, generic, loaded) for setting in chosen]
    group, _, key = generic.rpartition(".")
    all_names = [setting.name for setting in settings_of(kinds[0])]
    siblings = [other.rpartition(".")[2] for other in all_names if other.rpartition(".")[0] == group]
    raise UserError(f"{name}: {advise(key, group, siblings or all_names, all_names)[0]}")


def _of_another_choice(when: str, name: str, loaded: Loaded[Any]) -> bool:
    """Whether a setting goes with another choice than the one that this item of a list has made."""
    place, _, choices = when.partition("=")
    parts, given = place.split("."), name.split(".")
    item = [here if part == "N" else part for part, here in zip(parts, given, strict=False)] + parts[len(given) :]
    if item == parts or "N" in item:
        return False
    return str(_lookup(loaded.value.model_dump(mode="json"), ".".join(item))) not in choices.split(" or ")


def _require_items(name: str, loaded: Loaded[Any]) -> None:
    """Refuse a number that is no item of its list in this file."""
    parts = name.split(".")
    for depth, part in enumerate(parts):
        above = ".".join(parts[:depth])
        if part.isdecimal() and above in loaded.origins and dotted(above, part) not in loaded.origins:
            items = _lookup(loaded.value.model_dump(mode="json"), above)
            if isinstance(items, list):
                raise UserError(f"{above}: is a list of {len(items)}, counted from 0; there is no item {part} in it")


def _explained(setting: Setting, name: str, generic: str, loaded: Loaded[Any] | None) -> dict[str, Any]:
    full = name + setting.name[len(generic) :] if name else setting.name
    default = setting.default
    if isinstance(default, BaseModel):
        default = default.model_dump(mode="json")
    found = {
        "name": full,
        "doc": "\n  ".join([setting.doc, *setting.meanings]),
        "type": setting.type,
        "group": setting.is_group,
        "required": setting.required,
        "default": default if isinstance(default, str | int | float | bool | list | dict | None) else str(default),
        "choices": list(setting.choices),
        "when": setting.when,
    }
    if loaded is not None and not setting.is_group and full in loaded.origins:
        found |= {"value": _lookup(loaded.value.model_dump(mode="json"), full), "origin": str(loaded.origins[full])}
    return found


def _lookup(tree: Any, name: str) -> Any:
    for part in name.split("."):
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree


def _shown(value: Any) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
