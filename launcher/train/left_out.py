"""What a run leaves out of its data: the documents and steps of data.skip, found in the opened mixture."""

from collections.abc import Iterator
from dataclasses import dataclass

from data_pipeline.mixture import Mixture
from data_pipeline.mixture.skip import documents_named
from data_pipeline.shards import ShardSet
from launcher.config import RunConfig, SkipConfig, stretch
from launcher.errors import UserError, os_error_sentence
from launcher.mixtures import labels, mixture_labels, source_named


@dataclass(frozen=True)
class LeftOut:
    """The documents of data.skip that are, and are not, in the training mixture."""

    documents: int
    """How many were found, and are left out."""
    not_found: list[str]
    """What data.skip names and no source has."""


def leave_out(config: RunConfig, mixture: Mixture) -> LeftOut:
    """Leave the documents of data.skip out of the training mixture; names are looked up in all its sources."""
    skip = config.data.skip
    names = document_names(skip)
    if not names and not skip.numbers:
        return LeftOut(0, [])
    numbers = _numbers(config)
    found: set[str] = set()
    for source, label in enumerate(mixture_labels(config, mixture)):
        hits = documents_named(mixture.sources[source], names) if names else {}
        found |= hits.keys()
        documents = [range(number, number + 1) for hit in hits.values() for number in hit]
        documents += _checked(mixture.sources[source], label, numbers.get(label, []))
        if documents:
            mixture.skip(source, documents)
    return LeftOut(sum(map(len, mixture.skipped.values())), sorted(names - found))


def skipped_steps(config: RunConfig) -> list[range]:
    """The steps that make no update."""
    return [stretch(steps) for steps in config.data.skip.steps]


def document_names(skip: SkipConfig) -> set[str]:
    """The ids and FILE:RECORDs to leave out, those in the file included. UserError when it cannot be read."""
    names = set(skip.documents)
    if skip.documents_file is not None:
        try:
            text = skip.documents_file.read_text(encoding="utf-8-sig")
        except OSError as error:
            raise UserError(f"data.skip.documents_file: {os_error_sentence(error)}") from error
        except UnicodeDecodeError as error:
            raise UserError(f"data.skip.documents_file: {skip.documents_file} is no UTF-8 text ({error})") from error
        names |= {line.strip() for line in text.splitlines()} - {""}
    return names


def _numbers(config: RunConfig) -> dict[str, list[range]]:
    """data.skip.numbers by what the sources are called."""
    sources, called = config.data.sources, labels(config.data.sources)
    found: dict[str, list[range]] = {}
    for key, numbers in config.data.skip.numbers.items():
        label = called[source_named(sources, key, "data.skip.numbers")]
        found.setdefault(label, []).extend(map(stretch, numbers))
    return found


def _checked(shards: ShardSet, label: str, numbers: list[range]) -> Iterator[range]:
    for some in numbers:
        if some.stop > shards.num_documents:
            raise UserError(
                f"data.skip.numbers.{label}: there is no document {some.stop - 1} in {shards.prefix}, "
                f"whose documents are 0 to {shards.num_documents - 1}"
            )
        yield some
