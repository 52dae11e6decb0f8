"""From a step of a run to its documents, and from a document to its steps. Needs no checkpoint and no model."""

from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.mixture import Loader, Mixture
from data_pipeline.mixture.mixture import samples_digest
from data_pipeline.mixture.windows import Stretch
from data_pipeline.read import read_identities
from data_pipeline.read.document import hash_identity, identity_of
from data_pipeline.shards import DocumentSpan, Provenance, ShardSet
from data_pipeline.tokenizer import Tokenizer
from launcher.config import RunConfig
from launcher.errors import UserError
from launcher.mixtures import training_mixture
from launcher.train.left_out import leave_out, skipped_steps
from launcher.train.run_folder import load_config
from tools.inspect.same_data import check_same_data
from tools.inspect.shards import shorten


@dataclass(frozen=True)
class Piece:
    """The part of one document that lies in one sequence of a step."""

    sequence: int
    """Number of the sequence in the global batch."""
    shards: str
    """Prefix of the shard set."""
    window: int
    """Number of the window in the shard set."""
    source: str
    """File the document came from."""
    record: int
    """Number of its record in that file."""
    id: str | None
    """Its id, or None when the file is no longer there to ask."""
    tokens_in_sequence: tuple[int, int]
    """First and last + 1 of the sequence's seq_len + 1 tokens that are this document's."""
    tokens_in_document: tuple[int, int]
    """First and last + 1 of the document's tokens that are in the sequence."""
    text: str
    """Those tokens, decoded and shortened."""
    skipped: bool
    """data.skip leaves the document out: nothing of it is an input or a target."""


@dataclass(frozen=True)
class Visit:
    """One sequence of one step that holds tokens of a document."""

    step: int
    sequence: int
    shards: str
    window: int
    epoch: int
    """How often the whole source had been read before."""
    skipped: bool
    """data.skip leaves the document or the step out: nothing of it is trained on."""


def describe_step(run: Path, step: int) -> dict[str, Any]:
    """Say which documents are in a step: {"step", "samples_digest", "skipped", "pieces": [Piece as dict]}, in order.

    `skipped`: data.skip.steps has the step, which makes no update. What is skipped is told from the run's settings as
    they are now; what was so when a step ran is in its events.
    """
    config = load_config(run)
    if not 1 <= step <= config.train.steps:
        raise UserError(f"step {step} is outside this run's schedule: 1 to {config.train.steps} (train.steps).")
    tokenizer = _tokenizer(run, config)
    mixture = open_mixture(config, tokenizer.digest)
    check_same_data(run, mixture, config.train.global_batch_size, step)
    loader = Loader(mixture, config.train.global_batch_size, skip_steps=skipped_steps(config))
    samples = loader.samples(step)
    places: list[_Place] = []
    for sequence, (source, window) in enumerate(samples.tolist()):
        places += _places(mixture, sequence, source, window)
    ids = _ids_of(places)
    pieces = [asdict(_piece(place, tokenizer, ids)) for place in places]
    return {
        "step": step,
        "samples_digest": samples_digest(samples),
        "skipped": loader.skips(step),
        "pieces": pieces,
    }


def find_document(run: Path, document: str) -> list[Visit]:
    """Return the steps within the schedule that draw a document, given by its id or as FILE:RECORD."""
    config = load_config(run)
    mixture = open_mixture(config, _tokenizer(run, config).digest)
    batch = config.train.global_batch_size
    check_same_data(run, mixture, batch)
    visits, known = [], False
    for source, shards in enumerate(mixture.sources):
        for number in _numbers_of(shards, document):
            known = True
            visits += _visits(mixture, source, shards.document_span(number), config)
    if not known:
        raise UserError(f"no document {document!r} in this run's training data; give its id, or FILE:RECORD.")
    return sorted(set(visits), key=lambda visit: (visit.step, visit.sequence))


def open_mixture(config: RunConfig, tokenizer_digest: str | None = None) -> Mixture:
    """Open the training mixture of a run just as the run does, without what it leaves out."""
    mixture = training_mixture(config, tokenizer_digest)
    leave_out(config, mixture)
    return mixture


def _tokenizer(run: Path, config: RunConfig) -> Tokenizer:
    """The run's own copy, or the configured folder for a run that has not started."""
    folder = run / "tokenizer"
    return Tokenizer.load(folder if folder.is_dir() else config.data.tokenizer)


class _Place(NamedTuple):
    """A document in a sequence of the step, before anything about it is read."""

    sequence: int
    shards: ShardSet
    window: int
    stretch: Stretch
    span: DocumentSpan
    origin: Provenance
    skipped: bool


def _places(mixture: Mixture, sequence: int, source: int, window: int) -> list[_Place]:
    shards, skipped = mixture.sources[source], mixture.skipped.get(source, ())
    return [
        _Place(sequence, shards, window, part, span, shards.provenance(span.document), span.document in skipped)
        for part in mixture.windows[source].stretches(window)
        for span in shards.documents_in(part.first, part.length)
    ]


def _piece(place: _Place, tokenizer: Tokenizer, ids: dict[tuple[Path, int], str]) -> Piece:
    span, origin, (column, start, length) = place.span, place.origin, place.stretch
    first, last = max(start, span.first), min(start + length, span.end)
    return Piece(
        sequence=place.sequence,
        shards=str(place.shards.prefix),
        window=place.window,
        source=origin.source,
        record=origin.position,
        id=ids.get((place.shards.prefix, span.document)),
        tokens_in_sequence=(column + first - start, column + last - start),
        tokens_in_document=(first - span.first, last - span.first),
        text=shorten(tokenizer.decode(place.shards.read(first, last - first))),
        skipped=place.skipped,
    )


def _ids_of(places: list[_Place]) -> dict[tuple[Path, int], str]:
    """Ask each source file once for the ids, by (prefix, document); believed only when their hashes were kept."""
    files: dict[tuple[Path, str], list[_Place]] = defaultdict(list)
    ids = {}
    for place in places:
        if place.origin.id_hash:
            files[place.shards.prefix, place.origin.source].append(place)
        else:  # imported tokens have no ids of their own
            named = identity_of(None, place.origin.source, place.origin.position)
            ids[place.shards.prefix, place.span.document] = named
    for (prefix, source), here in files.items():
        manifest = here[0].shards.manifest
        wanted = {(place.origin.position, place.origin.offset) for place in here}
        found = read_identities(source, wanted, *manifest.fields_of(source))
        for place in here:
            identity = found.get(place.origin.position)
            if identity is not None and hash_identity(identity) == place.origin.id_hash:
                ids[prefix, place.span.document] = identity
    return ids


def _numbers_of(shards: ShardSet, document: str) -> list[int]:
    """Document numbers with this id, else with this FILE:RECORD."""
    found = shards.find_documents(document)
    source, colon, record = document.rpartition(":")
    if not found and colon and record.isdecimal():
        found = shards.find_records(source, int(record))
    return found


def _visits(mixture: Mixture, source: int, span: DocumentSpan, config: RunConfig) -> list[Visit]:
    batch, skipped = config.train.global_batch_size, span.document in mixture.skipped.get(source, ())
    no_updates = skipped_steps(config)
    visits = []
    for window in mixture.windows_with(source, span.first, span.end):
        for epoch, index in enumerate(mixture.indices_of(source, window, config.train.steps * batch), start=1):
            step, sequence = index // batch + 1, index % batch
            left_out = skipped or any(step in steps for steps in no_updates)
            visits.append(Visit(step, sequence, str(mixture.sources[source].prefix), window, epoch, left_out))
    return visits
