"""What the cleaning steps would do to a sample of documents, and why, without writing anything."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from data_pipeline.clean.cleaner import Cleaner
from data_pipeline.clean.step import Rejected, Step, StepSettings
from data_pipeline.read import Document

_EXCERPT = 160
_BEFORE = 40


@dataclass
class Example:
    """A document that a step changed or rejected."""

    id: str
    text: str
    """How it begins; of a changed one, the place where it first changed."""
    after: str | None = None
    """What that place became; none for a rejected document."""


@dataclass
class StepOutcome:
    """What one step did."""

    name: str
    seen: int = 0
    changed: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    """Reason -> documents."""
    changes: list[Example] = field(default_factory=list)
    """The first documents that it changed."""
    rejections: dict[str, list[Example]] = field(default_factory=dict)
    """Reason -> the first documents that it rejected."""
    seconds: float = 0.0


@dataclass
class DryRun:
    """What all steps did to the sample."""

    documents: int = 0
    empty: int = 0
    """Documents without text: no step sees them."""
    broken: int = 0
    """Records on the way to the documents that could not be read; of the first of them in each file, the reason:"""
    broken_examples: list[str] = field(default_factory=list)
    kept: int = 0
    characters: int = 0
    """Before cleaning."""
    kept_characters: int = 0
    languages: dict[str, int] = field(default_factory=dict)
    """Language -> documents kept; `unknown` where nothing says it."""
    steps: list[StepOutcome] = field(default_factory=list)


def dry_run(
    steps: Sequence[StepSettings],
    documents: Iterable[Document],
    examples: int = 3,
    last: tuple[str, Step] | None = None,
) -> DryRun:
    """Clean the documents and keep count, with up to so many examples of each change and each reason.

    `last`: the name of a further step, and the step itself, such as decontamination.
    """
    cleaner = Cleaner(steps)
    run = DryRun(steps=[StepOutcome(name) for name in cleaner.names])
    if last:
        run.steps.append(StepOutcome(last[0]))
    for document in documents:
        run.documents += 1
        run.characters += len(document.text)
        if not document.text:
            run.empty += 1
            continue
        result = _clean(run.steps, cleaner, document, examples, last[1] if last else None)
        if isinstance(result, Document):
            run.kept += 1
            run.kept_characters += len(result.text)
            language = result.language or "unknown"
            run.languages[language] = run.languages.get(language, 0) + 1
    for outcome, seconds in zip(run.steps, cleaner.seconds, strict=False):
        outcome.seconds = seconds
    return run


def _clean(
    outcomes: list[StepOutcome], cleaner: Cleaner, document: Document, examples: int, last: Step | None
) -> Document | Rejected:
    result: Document | Rejected = document
    text, identity = document.text, document.identity
    for place, result in cleaner.trace(document):
        _note(outcomes[place], identity, text, result, examples)
        text = result.text if isinstance(result, Document) else ""
    if last and isinstance(result, Document):
        result = last(result)
        _note(outcomes[-1], identity, text, result, examples)
    return result


def _note(outcome: StepOutcome, identity: str, text: str, result: Document | Rejected, examples: int) -> None:
    outcome.seen += 1
    if isinstance(result, Rejected):
        outcome.rejected[result.reason] = outcome.rejected.get(result.reason, 0) + 1
        kept = outcome.rejections.setdefault(result.reason, [])
        if len(kept) < examples:
            kept.append(Example(identity, text[:_EXCERPT]))
    elif result.text != text:
        outcome.changed += 1
        if len(outcome.changes) < examples:
            first = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(text, result.text, strict=False)))
            begin = max(0, first - _BEFORE)
            outcome.changes.append(
                Example(identity, text[begin : begin + _EXCERPT], result.text[begin : begin + _EXCERPT])
            )
