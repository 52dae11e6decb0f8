"""What a tree of pydantic models says about its settings: names, types, defaults, docs."""

import types
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from launcher.settings.entries import dotted

_TEXTS = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path", type(None): "null"}
_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


@dataclass(frozen=True)
class Shape:
    """What an annotation can hold, as far as names are concerned; all empty for a plain value."""

    groups: tuple[type[BaseModel], ...] = ()
    """The models that a mapping here may be."""
    tag: str | None = None
    """The setting that chooses among several groups."""
    item: Any = None
    """The annotation of a list's items."""
    value: Any = None
    """The annotation of a free mapping's values."""

    def tagged(self, tag_value: object) -> type[BaseModel] | None:
        """The group that this value of the tag chooses."""
        return next((group for group in self.groups if tag_value in tags_of(group, str(self.tag))), None)


@dataclass(frozen=True)
class Setting:
    """One setting as `config explain` shows it. Items of a list are named with an N: data.sources.N.weight."""

    name: str
    doc: str
    type: str
    required: bool
    default: Any = None
    is_group: bool = False
    when: str = ""
    """For a setting of one choice among several groups: the choice, such as `optimizer.schedule.name=wsd`."""
    choices: tuple[Any, ...] = ()
    """The allowed values, where they are a fixed few."""
    meanings: tuple[str, ...] = ()
    """What each choice is, where it chooses among several groups."""


def shape_of(annotation: Any, discriminator: str | None = None) -> Shape:
    """The shape of an annotation; `discriminator` as pydantic's FieldInfo has it."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        named = [m.discriminator for m in metadata if isinstance(m, FieldInfo) and isinstance(m.discriminator, str)]
        return shape_of(inner, named[0] if named else discriminator)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return Shape(groups=(annotation,), tag=discriminator)
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        parts = [shape_of(argument, discriminator) for argument in arguments]
        return Shape(
            groups=tuple(group for part in parts for group in part.groups),
            tag=discriminator or next((part.tag for part in parts if part.tag), None),
            item=next((part.item for part in parts if part.item is not None), None),
            value=next((part.value for part in parts if part.value is not None), None),
        )
    if origin in (list, tuple, set, frozenset) and arguments:
        return Shape(item=arguments[0])
    if origin is dict:
        return Shape(value=arguments[1])
    return Shape()


def field_shape(info: FieldInfo) -> Shape:
    """The shape of a model's field."""
    return shape_of(info.annotation, info.discriminator if isinstance(info.discriminator, str) else None)


def tags_of(group: type[BaseModel], tag: str) -> tuple[Any, ...]:
    """The values of `tag` that choose this group."""
    return choices_of(group.model_fields[tag].annotation)


def choices_of(annotation: Any) -> tuple[Any, ...]:
    """The values that a Literal, or a Literal or null, allows; empty for other types."""
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(choice for argument in get_args(annotation) for choice in choices_of(argument))
    return ()


def settings_of(schema: type[BaseModel], name: str = "", when: str = "") -> Iterator[Setting]:
    """Every setting of a schema, groups before what is in them, in the order of the schema."""
    for key, info in schema.model_fields.items():
        yield from _field_settings(info, dotted(name, key), when)


def _field_settings(info: FieldInfo, name: str, when: str) -> Iterator[Setting]:
    shape = field_shape(info)
    item = shape_of(shape.item) if shape.item is not None else Shape()
    default = info.get_default(call_default_factory=True, validated_data={})
    yield Setting(
        name=name,
        doc=" ".join((info.description or "").split()),
        type=type_text(info.annotation, info.metadata),
        required=info.is_required(),
        default=None if default is PydanticUndefined else default,
        is_group=bool(shape.groups),
        when=when,
        choices=choices_of(info.annotation),
    )
    yield from _inner_settings(shape, name, when) if shape.groups else _inner_settings(item, dotted(name, "N"), when)


def _inner_settings(shape: Shape, name: str, when: str) -> Iterator[Setting]:
    """The settings of one or several groups; one that is the same in several of them comes once."""
    owners: dict[tuple[str, ...], list[type[BaseModel]]] = {}
    settings: dict[tuple[str, ...], list[Setting]] = {}
    tag = dotted(name, shape.tag) if shape.tag else None
    for group in shape.groups:
        for setting in settings_of(group, name, when):
            meaning = (setting.doc, setting.type, str(setting.default)) if setting.name != tag else ()
            owners.setdefault((setting.name, *meaning), []).append(group)
            settings.setdefault((setting.name, *meaning), []).append(setting)
    for key, found in settings.items():
        setting = found[0]
        if setting.name == tag:
            choices = tuple(choice for one in found for choice in one.choices)
            meanings = tuple(map(_said, found, shape.groups))
            setting = replace(setting, choices=choices, type=" | ".join(map(str, choices)), meanings=meanings)
        elif shape.tag and len(found) < len(shape.groups):
            tags = [str(tag) for group in owners[key] for tag in tags_of(group, shape.tag)]
            setting = replace(setting, when=f"{name}.{shape.tag}={' or '.join(tags)}")
        yield setting


def _said(tag: Setting, group: type[BaseModel]) -> str:
    """What a choice is, in the words of its group."""
    return f"{' or '.join(map(str, tag.choices))}: {' '.join((group.__doc__ or '').split())}"


def type_text(annotation: Any, metadata: list[Any] | tuple[Any, ...] = ()) -> str:
    """A type in words: `whole number > 0 or null`."""
    if get_origin(annotation) is Annotated:
        inner, *own = get_args(annotation)
        return type_text(inner, own)
    return (_plain_type(annotation) + "".join(f" {bound}" for bound in _bounds(metadata))).strip()


def _plain_type(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if annotation in _TEXTS:
        return _TEXTS[annotation]
    if origin is Literal:
        return " | ".join(map(str, arguments))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_text(argument) for argument in arguments))
    if origin is tuple and arguments[1:] == (...,):
        return f"list of: {type_text(arguments[0])}"
    if origin is tuple:
        return "[" + ", ".join(type_text(argument) for argument in arguments) + "]"
    if origin in (list, set, frozenset) and arguments:
        return f"list of: {type_text(arguments[0])}"
    if shape_of(annotation).groups:
        return "group of settings"
    return "mapping" if origin is dict else getattr(annotation, "__name__", str(annotation))


def _bounds(metadata: list[Any] | tuple[Any, ...]) -> Iterator[str]:
    for item in metadata:
        parts = item.metadata if isinstance(item, FieldInfo) else [item]
        for part in parts:
            for attribute, sign in _BOUNDS.items():
                bound = getattr(part, attribute, None)
                if bound is not None:
                    yield f"{sign} {bound}"
