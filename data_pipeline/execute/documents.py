"""The documents of a task, read and cleaned, in batches that can be gone on with after any of them."""

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import orjson

from data_pipeline.clean import Rejected
from data_pipeline.config import PrepareConfig
from data_pipeline.execute.broken import described
from data_pipeline.execute.counts import Counts, add, count, example, observe
from data_pipeline.execute.job import Advance
from data_pipeline.execute.pieces import Piece
from data_pipeline.execute.split import set_of
from data_pipeline.execute.stages.scan import refuse_changed
from data_pipeline.read import Broken, Document, Place, read, shown

_BATCH_CHARACTERS = 1 << 21
_EXCERPT = 160

Mark = tuple[int, int, int]
"""The last record of a batch: number of its piece within the task, number of the record in the file, byte offset."""


@dataclass
class Seen:
    """What came of the documents of one source."""

    documents: int = 0
    text_bytes: int = 0
    empty: int = 0
    changed: int = 0
    kept: int = 0
    kept_bytes: int = 0


@dataclass
class Batch:
    """Some documents that were kept, and all that happened until the last of them."""

    documents: list[Document] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    """Bytes of the text of each of the documents."""
    broken: list[Broken] = field(default_factory=list)
    counts: Counts = field(default_factory=dict)
    seen: dict[str, Seen] = field(default_factory=dict)
    """By source."""
    mark: Mark = (0, -1, 0)
    characters: int = 0
    """Read into it, whether kept or not: decides where it ends."""

    def broken_lines(self) -> bytes:
        """One line of JSON for each record that could not be read."""
        return b"".join(orjson.dumps(described(record)) + b"\n" for record in self.broken)


def batches(config: PrepareConfig, pieces: list[Piece], after: Mark | None, advance: Advance) -> Iterator[Batch]:
    """Yield the documents of some pieces, from behind the record `after` on. The same batches whenever it begins."""
    clean = cleaning(config)
    batch = Batch()
    for number, record in _records(config, pieces, after, advance):
        name = source_name(config, pieces[number].source)
        if isinstance(record, Broken):
            batch.broken.append(record)
            count(batch.counts, "sources", name, "broken")
        else:
            _take(config, batch, name, record, clean)
        batch.mark = (number, record.position, record.offset)
        if batch.characters + len(batch.broken) * _EXCERPT >= _BATCH_CHARACTERS:
            _count(batch)
            yield batch
            batch = Batch()
    if batch.mark[1] >= 0:
        _count(batch)
        yield batch


def source_name(config: PrepareConfig, number: int) -> str:
    """How a source is called in the report."""
    source = config.sources[number]
    return source.name or shown(source.files[0] if source.kind == "files" else source.dataset)


def text_bytes(text: str) -> int:
    """Bytes in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


@functools.lru_cache(maxsize=1)
def _cleaning(settings: str) -> Callable[[Document], Document | Rejected]:
    """Word lists, models and n-grams are loaded once a process."""
    from data_pipeline.clean.cleaner import Cleaner
    from data_pipeline.dedup.decontaminate import Decontaminator

    config = PrepareConfig.model_validate_json(settings)
    cleaner = Cleaner(config.clean)
    decontaminator = Decontaminator(config.decontaminate) if config.decontaminate else None

    def clean(document: Document) -> Document | Rejected:
        cleaned = cleaner(document)
        if decontaminator is None or isinstance(cleaned, Rejected):
            return cleaned
        return decontaminator(cleaned)

    return clean


def cleaning(config: PrepareConfig) -> Callable[[Document], Document | Rejected]:
    """All that happens to a document by itself: the cleaning steps, then decontamination."""
    if not config.clean and not config.decontaminate:
        return lambda document: document
    return _cleaning(config.model_dump_json())


def _records(
    config: PrepareConfig, pieces: list[Piece], after: Mark | None, advance: Advance
) -> Iterator[tuple[int, Document | Broken]]:
    """Yield (number of the piece, record) for every record behind `after`."""
    first = after[0] if after else 0
    for number in range(first, len(pieces)):
        piece = pieces[number]
        start = Place(*after[1:]) if after and number == first else piece.start
        records = read(piece.path, config.sources[piece.source], start, piece.end, advance)
        if after and number == first:
            next(records, None)
        yield from ((number, record) for record in records)
        refuse_changed(piece.path, *piece.stamp)


def _take(
    config: PrepareConfig,
    batch: Batch,
    name: str,
    document: Document,
    clean: Callable[[Document], Document | Rejected],
) -> None:
    """Clean one document and count what happened to it."""
    batch.characters += len(document.text)
    size = text_bytes(document.text)
    seen = batch.seen.setdefault(name, Seen())
    seen.documents += 1
    seen.text_bytes += size
    if not document.text:
        seen.empty += 1
        count(batch.counts, "empty", set_of(document, config))
        return
    cleaned = clean(document)
    if isinstance(cleaned, Rejected):
        kind = f"{cleaned.step}: {cleaned.reason}"
        count(batch.counts, "rejected", kind)
        count(batch.counts, "sources", name, "rejected", kind)
        example(batch.counts, kind, id=document.identity, text=document.text[:_EXCERPT])
        return
    if cleaned.text is not document.text and cleaned.text != document.text:
        seen.changed += 1
        size = text_bytes(cleaned.text)
    seen.kept += 1
    seen.kept_bytes += size
    batch.documents.append(cleaned)
    batch.sizes.append(size)


def _count(batch: Batch) -> None:
    """Bring what was seen of a batch into its counts."""
    for name, seen in batch.seen.items():
        add(batch.counts, {"sources": {name: {key: value for key, value in vars(seen).items() if value}}})
    add(batch.counts, {"languages": Counter(document.language or "unknown" for document in batch.documents)})
    observe(batch.counts, "bytes_of_documents", batch.sizes)
