"""A composed tree against a schema: every unknown name, wrong value and missing setting, in words."""

import difflib
import json
from collections.abc import Iterator
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined

from launcher.settings.entries import DEFAULT, Entry, Mistake, Origin, dotted
from launcher.settings.names import CHOICES, advise
from launcher.settings.reader import number_in
from launcher.settings.schema import Shape, field_shape, settings_of, shape_of

T = TypeVar("T", bound=BaseModel)

_EXPECTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "path": "a path",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "frozen_set": "a list",
    "dict": "a group of settings",
    "model": "a group of settings",
    "none": "null",
}


def validate(root: Entry, schema: type[T], incomplete: bool = False) -> tuple[T | None, list[Mistake]]:
    """The tree as a model, and every mistake. Unknown names are taken out of `root` on the way.

    With mistakes there is no model, unless they only say that right values do not fit each other (kind "misfit").

    `incomplete`: a file of the tree could not be read, so settings that are not there are not reported.
    """
    names = _Names(schema)
    names.visit(root, Shape(groups=(schema,)), None, "")
    mistakes = names.mistakes
    text = json.dumps(root.plain())
    try:
        value = schema.model_validate_json(text, strict=True)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        meant = {mistake.meant for mistake in mistakes}
        only_misfits = not mistakes and {error["type"] for error in errors} == {"misfit"}
        for kind, mistake in _in_words(errors, root, schema):
            if kind != "missing" or not (incomplete or mistake.setting in meant):
                mistakes.append(mistake)
        if only_misfits:
            return schema.model_validate_json(text, strict=True, context={"allow_misfits": True}), mistakes
        return None, mistakes
    return (None if mistakes else value), mistakes


class _Names:
    """Finds the names that the schema does not have and takes them out, so that the rest can be checked too."""

    def __init__(self, schema: type[BaseModel]) -> None:
        self.all_names = [setting.name for setting in settings_of(schema)]
        self.mistakes: list[Mistake] = []

    def visit(self, entry: Entry, shape: Shape, default: Any, name: str) -> None:
        """Check everything below an entry."""
        if isinstance(entry.value, list) and shape.item is not None:
            for index, child in enumerate(entry.value):
                self.visit(child, shape_of(shape.item), None, dotted(name, str(index)))
        elif isinstance(entry.value, dict) and shape.groups:
            self._group(entry, entry.value, shape, default, name)
        elif isinstance(entry.value, dict) and shape.value is not None:
            for key, child in entry.value.items():
                self.visit(child, shape_of(shape.value), None, dotted(name, key))

    def _group(self, entry: Entry, children: dict[str, Entry], shape: Shape, default: Any, name: str) -> None:
        chosen = _choose(entry, children, shape, default)
        fields = {key: info for group in chosen for key, info in group.model_fields.items()}
        others = {key for group in shape.groups for key in group.model_fields} - set(fields)
        for key, child in list(children.items()):
            if key in fields:
                info = fields[key]
                default = None if info.default is PydanticUndefined else info.default
                self.visit(child, field_shape(info), default, dotted(name, key))
                continue
            del children[key]
            if key in others and shape.tag is not None:
                self._of_another_choice(child, children[shape.tag], key, shape, name)
            else:
                message, meant = advise(key, name, fields, self.all_names)
                self.mistakes.append(Mistake(child.origin, dotted(name, key), message, meant))

    def _of_another_choice(self, child: Entry, tag: Entry, key: str, shape: Shape, name: str) -> None:
        """A setting of a choice that was not made; fine when left over from a base whose choice is overridden."""
        if tag.origin.layer > child.origin.layer:
            return
        owners = [group.model_fields[str(shape.tag)].annotation for group in shape.groups if key in group.model_fields]
        values = " or ".join(str(value) for owner in owners for value in getattr(owner, "__args__", ()))
        message = f"belongs to {name}.{shape.tag}={values}, but that is {tag.value}; remove this or change that"
        self.mistakes.append(Mistake(child.origin, dotted(name, key), message))


def _choose(entry: Entry, children: dict[str, Entry], shape: Shape, default: Any) -> tuple[type[BaseModel], ...]:
    """The groups that this mapping can be; fills in the choice that the default makes when none is written."""
    if shape.tag is None:
        return shape.groups
    if shape.tag not in children and isinstance(default, BaseModel):
        children[shape.tag] = Entry(getattr(default, shape.tag), Origin(DEFAULT))
    tag = children.get(shape.tag)
    group = shape.tagged(tag.value) if tag is not None and isinstance(tag.value, str) else None
    return (group,) if group else shape.groups


def _in_words(errors: list[ErrorDetails], root: Entry, schema: type[BaseModel]) -> Iterator[tuple[str, Mistake]]:
    """pydantic's errors as (kind, mistake); the several complaints of a union about one value become one."""
    docs = {setting.name: setting for setting in settings_of(schema)}
    complaints: dict[str, list[tuple[ErrorDetails, Entry]]] = {}
    for error in errors:
        name, entry = _locate(error, root, schema)
        complaints.setdefault(name, []).append((error, entry))
    for name, found in complaints.items():
        error, entry = found[0]
        if error["type"] == "missing" and isinstance(entry.value, list):
            message = f"must be {docs[name].type if name in docs else 'longer'}, not a list of {len(entry.value)}"
            yield "too_short", Mistake(entry.origin, name, message)
            continue
        if error["type"] == "missing":
            yield "missing", Mistake(entry.origin, name, _missing(name, docs))
            continue
        if error["type"].startswith("union_tag"):
            tag = str(error.get("ctx", {}).get("discriminator", "")).strip("'")
            name, entry = dotted(name, tag), entry.child(tag) or entry
        if error["type"] == "union_tag_not_found":
            yield "missing", Mistake(entry.origin, name, _missing(name, docs))
            continue
        words = list(dict.fromkeys(_expectation(error) for error, _ in found))
        message = " or ".join(words) + _found(error, entry) + _as_group(name, entry.value, docs)
        yield error["type"], Mistake(entry.origin, name, message)


def _locate(error: ErrorDetails, root: Entry, schema: type[BaseModel]) -> tuple[str, Entry]:
    """The dotted name that an error is about and its entry (the nearest one above, when it is not there).

    pydantic puts a union's choice into the location, such as ('optimizer', 'schedule', 'cosine', 'warmup_steps').
    """
    name, entry, shape = "", root, Shape(groups=(schema,))
    parts = list(error["loc"])
    while parts:
        part = parts.pop(0)
        if shape.tag and len(shape.groups) > 1 and shape.tagged(part):
            shape = Shape(groups=(shape.tagged(part) or shape.groups[0],))
            continue
        fields = {key: info for group in shape.groups for key, info in group.model_fields.items()}
        below = entry.child(part)
        if below is None and (part not in fields or parts):
            break
        name = dotted(name, str(part))
        if below is None:
            break
        entry = below
        inner = shape.item if isinstance(part, int) else shape.value
        shape = field_shape(fields[str(part)]) if part in fields else shape_of(inner)
    return name, entry


def _generic(name: str) -> str:
    return ".".join("N" if part.isdecimal() else part for part in name.split("."))


def _as_group(name: str, value: Any, docs: dict[str, Any]) -> str:
    """How a choice is written whose name stands there where its group should."""
    choice = CHOICES.get(str(value), value)
    for other, setting in docs.items():
        group, _, tag = other.rpartition(".")
        if group == _generic(name) and isinstance(value, str) and choice in setting.choices:
            return f"; write {{{tag}: {choice}}}"
    return ""


def _missing(name: str, docs: dict[str, Any]) -> str:
    """A required setting that is not there."""
    generic = _generic(name)
    setting = docs.get(generic)
    if setting is None:
        return "is missing"
    below = [s for n, s in docs.items() if n.startswith(generic + ".") and ".N." not in n]
    inside = [s.name for s in below if s.required and not s.is_group and not s.when]
    needs = f"; it needs {', '.join(inside)}" if inside else f"; set it ({setting.type})"
    return f"is required and not set: {setting.doc.rstrip('.')}{needs}"


def _expectation(error: ErrorDetails) -> str:
    """What one pydantic error asks for."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "value_error":
        return str(context.get("error", error["msg"]))
    if kind in ("literal_error", "union_tag_invalid"):
        return "must be one of " + str(context.get("expected") or context.get("expected_tags")).replace("'", "")
    if kind == "too_short":
        return f"needs at least {context['min_length']} item" + ("s" if context["min_length"] != 1 else "")
    if kind == "too_long":
        return f"takes at most {context['max_length']} items"
    if kind == "int_from_float":
        return "must be a whole number"
    stem, _, suffix = kind.rpartition("_")
    if suffix in ("type", "parsing", "required") and stem in _EXPECTED:
        return f"must be {_EXPECTED[stem]}"
    return error["msg"].replace("Input should", "must")


def _found(error: ErrorDetails, entry: Entry) -> str:
    """The offending value, and what was probably meant."""
    kind, value = error["type"], entry.value
    if kind in ("value_error", "misfit", "too_short", "too_long"):
        return ""
    shown = f", not {show(value)}"
    if kind in ("literal_error", "union_tag_invalid"):
        expected = str(error.get("ctx", {}).get("expected") or error.get("ctx", {}).get("expected_tags"))
        choices = expected.replace("'", "").replace(" or ", ", ").split(", ")
        close = difflib.get_close_matches(str(value).lower(), choices, n=1, cutoff=0.5)
        meant = CHOICES.get(str(value).lower())
        likely = meant if meant in choices else next(iter(close), None)
        return shown + (f"; did you mean {likely}?" if likely else "")
    return shown + _remedy(kind, value, entry.origin.line > 0)


def _remedy(kind: str, value: Any, in_file: bool) -> str:
    if kind.startswith("bool") and str(value).lower() in ("yes", "no", "on", "off", "1", "0"):
        return f"; write {'true' if str(value).lower() in ('yes', 'on', '1') else 'false'}"
    if kind.startswith(("int", "float")) and isinstance(value, str) and number_in(value) is not None:
        return f"; write {number_in(value)}"
    if kind.startswith(("string", "path")) and isinstance(value, int | float):
        return "; put it in quotes to make it text"
    if kind.startswith("model") and value is None and in_file:
        return "; indent its settings below it, or remove the line"
    return ""


def show(value: Any) -> str:
    """A value from a configuration as an error shows it."""
    if isinstance(value, dict):
        return "a group of settings"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        return f"the text {value[:60]!r}" + ("..." if len(value) > 60 else "")
    return "null (nothing)" if value is None else str(value).lower()
