"""A step that the user wrote."""

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from data_pipeline.clean.step import Rejected, Step, StepSettings, with_text
from data_pipeline.errors import DataError
from data_pipeline.read import Document


def _reference(name: str) -> str:
    place, _, function = name.rpartition(":")
    if not place or not function.isidentifier():
        raise ValueError("must be `module:name` or `folder/file.py:name`")
    return name


class Function(StepSettings):
    """Calls a Python function with each Document (data_pipeline.read.Document), and with `arguments` by name.

    It returns the Document, changed or not (dataclasses.replace), or a new text, or True to keep it, None or False to
    reject it, or Rejected("step", "reason"), of which the reason is counted. The same document must always get the same
    answer: no clock, no chance.
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
                answer = function(document, **self.arguments)
            except Exception as error:
                raise DataError(
                    f"the cleaning function {self.function} failed on document {document.identity}: "
                    f"{type(error).__name__}: {error}."
                ) from error
            return self._read(answer, document)

        return step

    def fingerprint(self) -> str:
        """Digest of the file that is named; what it imports is not looked at."""
        file = getattr(_load(self.function)[0], "__file__", None)
        return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""

    def _read(self, answer: object, document: Document) -> Document | Rejected:
        if isinstance(answer, Document) and isinstance(answer.text, str):
            return answer
        if isinstance(answer, str):
            return with_text(document, answer)
        if answer is True:
            return document
        if answer is None or answer is False:
            return Rejected(self.name, "rejected")
        if isinstance(answer, Rejected):
            return Rejected(self.name, str(answer.reason))
        raise DataError(
            f"the cleaning function {self.function} returned {_kind(answer)} for document {document.identity}; "
            "it must return a Document, a text, True, None, False or Rejected."
        )


def _kind(answer: object) -> str:
    if isinstance(answer, Document):
        return f"a Document whose text is {type(answer.text).__name__}"
    return type(answer).__name__


def _load(reference: str) -> tuple[ModuleType, Callable[..., Any]]:
    """Import `module:name` or `file.py:name`. DataError when there is no such function."""
    place, _, name = reference.rpartition(":")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else _from_name(place)
        function = getattr(module, name)
    except (Exception, SystemExit) as error:
        raise DataError(f"cannot load the cleaning function {reference}: {type(error).__name__}: {error}.") from error
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
