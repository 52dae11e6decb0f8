"""Look at what a preparation would clean away, on a sample of its sources, without writing anything."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice

from data_pipeline.clean.dry_run import DryRun, dry_run
from data_pipeline.config import PrepareConfig
from data_pipeline.dedup.decontaminate import STEP, Decontaminator
from data_pipeline.errors import DataError
from data_pipeline.read import Broken, Document, expand, read
from data_pipeline.read.settings import Source

_FILES = 16
"""Files of a source that the sample is shared out to; more are opened only when these hold too little."""
_UNREADABLE = 1000
"""Records of a file that may be unreadable, before it is left: with a wrong `text_field` all of them are."""


@dataclass
class _Unreadable:
    """What could not be read in a file."""

    first: Broken
    records: int = 0

    def __str__(self) -> str:
        return f"{self.first.source}, record {self.first.position}: {self.first.reason}"


def clean_sample(config: PrepareConfig, count: int, examples: int = 3) -> DryRun:
    """Clean about `count` documents: as many from each source, from the beginnings of files all over it.

    DataError when there is no document that can be read, or a file is not there.
    """
    share = -(-count // len(config.sources))
    broken: dict[str, _Unreadable] = {}
    documents = list(chain.from_iterable(_sample(source, share, broken) for source in config.sources))
    if not documents:
        first = f" The first: {next(iter(broken.values()))}." if broken else ""
        raise DataError(f"the sample is empty: no document could be read in the files looked into.{first}")
    last = (STEP, Decontaminator(config.decontaminate)) if config.decontaminate else None
    run = dry_run(config.clean, documents, examples, last)
    run.broken = sum(found.records for found in broken.values())
    run.broken_examples = [str(found) for found in broken.values()]
    return run


def _sample(source: Source, count: int, broken: dict[str, _Unreadable]) -> Iterator[Document]:
    files = expand(source)
    stride = -(-len(files) // _FILES)
    spread = [file for first in range(stride) for file in files[first::stride]]
    shares, left = len(files[::stride]), count
    for place, file in enumerate(spread[: shares + count]):
        wanted = count * (place + 1) // shares - count * place // shares
        for document in islice(_documents(file, source, broken), min(wanted, left)):
            left -= 1
            yield document
        if not left:
            return


def _documents(file: str, source: Source, broken: dict[str, _Unreadable]) -> Iterator[Document]:
    """The documents of a file; what cannot be read goes into `broken`."""
    for item in read(file, source):
        if isinstance(item, Document):
            yield item
            continue
        found = broken.setdefault(file, _Unreadable(item))
        found.records += 1
        if found.records == _UNREADABLE:
            return
