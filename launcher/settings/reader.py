"""YAML text -> entries with line and column. The rules for scalars are YAML 1.2's core schema, not PyYAML's 1.1."""

import re
from collections.abc import Callable
from typing import Any

import yaml

from launcher.settings.entries import Entry, Mistake, Origin, dotted

MAX_DEPTH = 32
_TAG = "tag:yaml.org,2002:"
_SCALARS: list[tuple[str, str, str]] = [
    ("null", r"^(?:null|Null|NULL|~|)$", "nN~\0"),
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^(?:[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+)$", "-+0123456789"),
    ("float", r"^(?:[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?)$", "-+.0123456789"),
    ("float", r"^(?:[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN))$", "-+."),
]


class _Loader(yaml.BaseLoader):
    """Composes nodes only, never objects; an alias is refused, since a tree of aliases can grow without end."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark
            raise yaml.composer.ComposerError(
                None, None, "aliases (*name) are not supported here; repeat the value or put it in a base file", mark
            )
        return super().compose_node(parent, index)


class Dumper(yaml.SafeDumper):
    """Writes YAML that 1.1 and 1.2 readers understand alike: text that either takes for something else is quoted."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write every value out: the reader refuses aliases."""
        return True

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> Any:
        """Write a list of plain values in one line."""
        plain = not any(isinstance(item, list | dict) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain or flow_style)

    def represent_text(self, text: str) -> Any:
        """Escape what is not printable: in other styles a reader folds Unicode's line breaks into spaces."""
        return self.represent_scalar(_TAG + "str", text, style=None if text.isprintable() else '"')


Dumper.add_representer(str, Dumper.represent_text)
for _name, _pattern, _first in _SCALARS:
    for _class in (_Loader, Dumper):
        _class.add_implicit_resolver(_TAG + _name, re.compile(_pattern), ["" if c == "\0" else c for c in _first])


def parse(text: str, origin_of: Callable[[Any], Origin], mistakes: list[Mistake]) -> Entry | None:
    """The text's one value; None when it is no YAML at all. What is wrong is added to `mistakes`.

    `origin_of` turns a YAML mark (line and column from 0; None: the text as a whole) into an Origin.
    """
    try:
        node = _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        mistakes.append(Mistake(origin_of(mark), "", _syntax_message(error, text)))
    except yaml.reader.ReaderError as error:
        message = f"not a text file: character {error.position} is the control character #x{error.character:04x}"
        mistakes.append(Mistake(origin_of(None), "", message))
    except RecursionError:
        mistakes.append(Mistake(origin_of(None), "", f"nested more than {MAX_DEPTH} levels deep"))
    else:
        if node is None:
            return Entry(None, origin_of(None))
        return _Converter(origin_of, mistakes).convert(node, origin_of(node.start_mark), "", 0)
    return None


def _syntax_message(error: yaml.MarkedYAMLError, text: str) -> str:
    """PyYAML's complaint in one sentence."""
    problem = str(error.problem or error.context)
    mark = error.problem_mark
    if mark is not None and "\\t" in problem and text.splitlines()[mark.line : mark.line + 1]:
        return "a tab stands where YAML needs spaces; indent with spaces"
    if "aliases" in problem:
        return problem
    context = f" ({error.context})" if error.context and error.problem else ""
    return f"not valid YAML: {problem}{context}"


class _Converter:
    """Nodes -> entries; keeps going after a mistake, so that all of them are found."""

    def __init__(self, origin_of: Callable[[Any], Origin], mistakes: list[Mistake]) -> None:
        self.origin_of = origin_of
        self.mistakes = mistakes

    def convert(self, node: Any, origin: Origin, name: str, depth: int) -> Entry:
        if depth > MAX_DEPTH:
            self.mistakes.append(Mistake(origin, name, f"nested more than {MAX_DEPTH} levels deep"))
            return Entry(None, origin)
        if isinstance(node, yaml.MappingNode):
            return Entry(self._mapping(node, name, depth), origin)
        if isinstance(node, yaml.SequenceNode):
            return Entry(self._sequence(node, name, depth), origin)
        return Entry(self._scalar(node, origin, name), origin)

    def _sequence(self, node: Any, name: str, depth: int) -> list[Entry]:
        items = enumerate(node.value)
        return [
            self.convert(item, self.origin_of(item.start_mark), dotted(name, str(i)), depth + 1) for i, item in items
        ]

    def _mapping(self, node: Any, name: str, depth: int) -> dict[str, Entry]:
        children: dict[str, Entry] = {}
        for key_node, value_node in node.value:
            origin = self.origin_of(key_node.start_mark)
            if not isinstance(key_node, yaml.ScalarNode):
                self.mistakes.append(Mistake(origin, name, "the name of a setting must be plain text"))
                continue
            key = key_node.value
            if key in children:
                first = children[key].origin
                where = f" in line {first.line}" if first.line else ""
                message = f"is set twice, first{where}; keep one of them"
                self.mistakes.append(Mistake(origin, dotted(name, key), message))
                continue
            children[key] = self.convert(value_node, origin, dotted(name, key), depth + 1)
        return children

    def _scalar(self, node: Any, origin: Origin, name: str) -> str | int | float | bool | None:
        try:
            return scalar(node.tag, node.value)
        except ValueError as error:
            self.mistakes.append(Mistake(origin, name, str(error)))
            return None


def scalar(tag: str, text: str) -> str | int | float | bool | None:
    """The value of a scalar with this resolved tag. Raises ValueError with the reason when it has none."""
    kind = tag.removeprefix(_TAG)
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in ("true", "false"):
        return text.lower() == "true"
    if kind == "int":
        return _integer(text)
    if kind == "float":
        return _number(text)
    if kind in ("str", "!"):
        text.encode("utf-8")  # half of a surrogate pair is a UnicodeEncodeError, which is a ValueError
        return text
    raise ValueError(f"YAML tags are not supported ({tag.replace(_TAG, '!!')}); write the plain value")


def _integer(text: str) -> int:
    if len(text) > 40:
        raise ValueError(f"a whole number of {len(text)} digits is too large")
    return int(text, 0) if text[:2] in ("0x", "0o") else int(text)


def _number(text: str) -> float | int:
    """A float; a whole number in scientific notation (1e6) is whole, so that it can count steps."""
    lowered = text.lower().replace(".inf", "inf").replace(".nan", "nan")
    value = float(lowered)
    return int(value) if "e" in lowered and abs(value) < 2**53 and value.is_integer() else value


def number_in(text: str) -> float | int | None:
    """The number that a person may have meant by this text (1_000, 1,000, a quoted number); None when there is none."""
    bare = text.strip().replace("_", "").replace(",", "")
    for kind, pattern, _ in _SCALARS:
        if kind in ("int", "float") and re.match(pattern, bare) and len(bare) <= 40:
            return _integer(bare) if kind == "int" else _number(bare)
    return None
