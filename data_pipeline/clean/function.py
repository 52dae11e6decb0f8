"""A step that the user wrote."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from data_pipeline.clean.step import Rejected, Step, StepSettings
from data_pipeline.errors import DataError
from data_pipeline.read import Document

_LONGEST_REASON = 100
_LONGEST_ERROR = 500


def _reference(name: str) -> str:
    place, _, function = name.rpartition(":")
    if not place or not function.isidentifier():
        raise ValueError("must be `module:name` or `folder/file.py:name`")
    return name


class Function(StepSettings):
    """Calls a Python function with each Document (data_pipeline.read.Document), and with `arguments` by name.

    It returns the Document, changed or not (dataclasses.replace), or a new text, or True to keep it as it was, None or
    False to reject it, or data_pipeline.clean.Rejected("step", "reason"), of which the reason is counted (its first 100
    characters). Only text and language may change. The same document must always get the same answer: no clock, no
    chance. What it prints goes to stderr.
    """

    step: Literal["function"]
    """Selects this step."""
    function: Annotated[str, AfterValidator(_reference)]
    """`module:name`, or `folder/file.py:name`, found from where the command is run."""
    arguments: dict[str, Any] = Field({})
    """Further arguments of the function, by name."""

    @property
    def name(self) -> str:
        """The function's own name."""
        return self.function

    def build(self) -> Step:
        """Import the function. DataError when it is not there, and later when it fails or returns something else."""
        _, function = _load(self.function)

        def step(document: Document) -> Document | Rejected:
            try:
                with redirect_stdout(sys.stderr):
                    answer = function(replace(document), **self.arguments)
            except (Exception, SystemExit) as error:
                raise DataError(
                    f"the cleaning function {self.function} failed on document {document.identity}: {_said(error)}."
                ) from error
            return self._read(answer, document)

        return step

    def fingerprint(self) -> str:
        """Digest of the file that is named; what it imports is not looked at."""
        file = getattr(_load(self.function)[0], "__file__", None)
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""

    def _read(self, answer: object, document: Document) -> Document | Rejected:
        if isinstance(answer, str):
            answer = replace(document, text=answer)
        if answer is True:
            return document
        if answer is None or answer is False:
            return Rejected(self.name, "rejected")
        wrong = _wrong(answer, document)
        if wrong:
            raise DataError(f"the cleaning function {self.function} returned {wrong[0]} for document "
                            f"{document.identity}; {wrong[1]}.")  # fmt: skip
        if isinstance(answer, Rejected):
            return Rejected(self.name, answer.reason[:_LONGEST_REASON])
        assert isinstance(answer, Document)
        return document if answer == document else replace(document, text=answer.text, language=answer.language)


def _wrong(answer: object, document: Document) -> tuple[str, str] | None:
    """What is wrong with an answer, and what it should be."""
    if isinstance(answer, Rejected):
        return _wrong_string("a Rejected", "reason", answer.reason)
    if not isinstance(answer, Document):
        return type(answer).__name__, "it must return a Document, a text, True, None, False or Rejected"
    for name in ("source", "position", "id", "offset"):
        if getattr(answer, name) != getattr(document, name):
            return f"a Document with another {name}", "only text and language may change"
    if answer.language is not None and (wrong := _wrong_string("a Document", "language", answer.language)):
        return wrong
    return None if answer.text is document.text else _wrong_string("a Document", "text", answer.text)


def _wrong_string(what: str, name: str, value: object) -> tuple[str, str] | None:
    if not isinstance(value, str):
        return f"{what} whose {name} is {type(value).__name__}", f"it must return a {name} that is a str"
    try:
        value.encode()
    except UnicodeEncodeError as error:
        half = f"U+{ord(value[error.start]):04X} at character {error.start}"
        return f"{what} whose {name} has half a surrogate pair ({half})", "no file can hold that: leave it out"
    return None


def _said(error: BaseException) -> str:
    """What an exception says, in a length and in characters that a terminal and a report can take."""
    return f"{type(error).__name__}: {error}"[:_LONGEST_ERROR].encode(errors="backslashreplace").decode()


def _load(reference: str) -> tuple[ModuleType, Callable[..., Any]]:
    """Import `module:name` or `file.py:name`. DataError when there is no such function."""
    place, _, name = reference.rpartition(":")
    try:
        with redirect_stdout(sys.stderr):
            module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
        function = getattr(module, name)
    except (Exception, SystemExit) as error:
        raise DataError(f"cannot load the cleaning function {reference}: {_said(error)}.") from error
    if not callable(function):
        raise DataError(f"{reference} is no function, but {type(function).__name__}.")
    return module, function


def _from_name(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    return importlib.import_module(name)


def _from_file(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"cleaning function in {path.resolve()}", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module  # where dataclasses look their annotations up
    spec.loader.exec_module(module)
    return module
