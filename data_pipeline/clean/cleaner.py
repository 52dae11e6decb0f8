"""The configured steps, one after the other."""

from collections.abc import Iterator, Sequence
from time import perf_counter

from data_pipeline.clean.step import Rejected, StepSettings
from data_pipeline.read import Document

EMPTY = "empty"
"""The reason for rejecting a document of whose text nothing is left."""


class Cleaner:
    """All steps as one: a document becomes a cleaner one, or is rejected by the first step that finds a reason."""

    def __init__(self, steps: Sequence[StepSettings]) -> None:
        self.names = step_names(steps)
        """[steps] What each is called in reports; the second of a kind is `length 2`."""
        self.seconds = [0.0] * len(steps)
        """[steps] Time spent in each so far."""
        self._steps = [
            (place, name, step.build(), None if step.languages is None else frozenset(step.languages))
            for place, (name, step) in enumerate(zip(self.names, steps, strict=True))
        ]

    def __call__(self, document: Document) -> Document | Rejected:
        """Clean one document. DataError when a step of the user's own fails."""
        last: Document | Rejected = document
        for _, result in self.trace(document):
            last = result
        return last

    def trace(self, document: Document) -> Iterator[tuple[int, Document | Rejected]]:
        """Clean one document, and yield (number of the step, what came of it) for each step that concerns it."""
        began = perf_counter()
        for place, name, step, languages in self._steps:
            if languages is not None and document.language not in languages:
                continue
            result = step(document)
            now = perf_counter()
            self.seconds[place] += now - began
            began = now
            if isinstance(result, Rejected):
                yield place, Rejected(name, result.reason)
                return
            if not result.text or result.text.isspace():
                yield place, Rejected(name, EMPTY)
                return
            yield place, result
            document = result


def step_names(steps: Sequence[StepSettings]) -> list[str]:
    """[steps] What each is called in reports; the second of a kind is `length 2`."""
    names: list[str] = []
    for step in steps:
        count = sum(before.name == step.name for before in steps[: len(names)])
        names.append(f"{step.name} {count + 1}" if count else step.name)
    return names
