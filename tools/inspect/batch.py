"""From a step of a run to its documents, and from a document to its steps. Needs no checkpoint and no model."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.mixture import Loader, Mixture
from data_pipeline.mixture.mixture import samples_digest
from data_pipeline.read import read_record
from data_pipeline.shards import DocumentSpan, ShardSet
from data_pipeline.tokenizer import Tokenizer
from launcher.config import RunConfig
from launcher.errors import UserError
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


@dataclass(frozen=True)
class Visit:
    """One sequence of one step that holds tokens of a document."""

    step: int
    sequence: int
    shards: str
    window: int
    epoch: int
    """How often the whole source had been read before."""


def describe_step(run: Path, step: int) -> dict[str, Any]:
    """Say which documents are in a step: {"step", "samples_digest", "pieces": [Piece as dict]}, in order."""
    config = load_config(run)
    if not 1 <= step <= config.train.steps:
        raise UserError(f"step {step} is outside this run's schedule: 1 to {config.train.steps} (train.steps).")
    tokenizer = _tokenizer(run, config)
    mixture = open_mixture(config, tokenizer.digest)
    check_same_data(run, mixture, config.train.global_batch_size, step)
    samples = Loader(mixture, config.train.global_batch_size).samples(step)
    pieces = []
    for sequence, (source, window) in enumerate(samples.tolist()):
        pieces += _pieces(mixture, tokenizer, sequence, source, window)
    return {"step": step, "samples_digest": samples_digest(samples), "pieces": [asdict(piece) for piece in pieces]}


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
            visits += _visits(mixture, source, shards.document_span(number), batch, config.train.steps * batch)
    if not known:
        raise UserError(f"no document {document!r} in this run's training data; give its id, or FILE:RECORD.")
    return sorted(set(visits), key=lambda visit: (visit.step, visit.sequence))


def open_mixture(config: RunConfig, tokenizer_digest: str | None = None) -> Mixture:
    """Open the training mixture of a run just as the run does."""
    sources = [(source.path, source.weight) for source in config.data.sources]
    return Mixture.open(sources, config.train.seq_len, config.seed, tokenizer_digest)


def _tokenizer(run: Path, config: RunConfig) -> Tokenizer:
    """The run's own copy, or the configured folder for a run that has not started."""
    folder = run / "tokenizer"
    return Tokenizer.load(folder if folder.is_dir() else config.data.tokenizer)


def _pieces(mixture: Mixture, tokenizer: Tokenizer, sequence: int, source: int, window: int) -> list[Piece]:
    shards = mixture.sources[source]
    start, length = window * mixture.seq_len, mixture.seq_len + 1
    return [
        _piece(shards, tokenizer, sequence, window, start, start + length, span)
        for span in shards.documents_in(start, length)
    ]


def _piece(
    shards: ShardSet, tokenizer: Tokenizer, sequence: int, window: int, start: int, end: int, span: DocumentSpan
) -> Piece:
    origin = shards.provenance(span.document)
    first, last = max(start, span.first), min(end, span.end)
    return Piece(
        sequence=sequence,
        shards=str(shards.prefix),
        window=window,
        source=origin.source,
        record=origin.position,
        id=_id_of(shards, span.document),
        tokens_in_sequence=(first - start, last - start),
        tokens_in_document=(first - span.first, last - span.first),
        text=shorten(tokenizer.decode(shards.read(first, last - first))),
    )


def _id_of(shards: ShardSet, document: int) -> str | None:
    """Ask the source file for the id; believe it only when its hash is the one that was kept."""
    origin, manifest = shards.provenance(document), shards.manifest
    try:
        record = read_record(origin.source, origin.position, origin.offset, manifest.text_field, manifest.id_field)
    except DataError:
        return None
    return record.identity if record.identity_hash == origin.id_hash else None


def _numbers_of(shards: ShardSet, document: str) -> list[int]:
    """Document numbers with this id, else with this FILE:RECORD."""
    found = shards.find_documents(document)
    source, colon, record = document.rpartition(":")
    if not found and colon and record.isdecimal():
        found = shards.find_records(source, int(record))
    return found


def _visits(mixture: Mixture, source: int, span: DocumentSpan, batch: int, limit: int) -> list[Visit]:
    visits = []
    for window in mixture.windows_with(source, span.first, span.end):
        for epoch, index in enumerate(mixture.indices_of(source, window, limit)):
            step, sequence = index // batch + 1, index % batch
            visits.append(Visit(step, sequence, str(mixture.sources[source].prefix), window, epoch))
    return visits
