"""Look at what a preparation would clean away, on a sample of its sources, without writing anything."""

from collections.abc import Iterator
from itertools import chain, islice

from data_pipeline.clean.dry_run import DryRun, dry_run
from data_pipeline.config import PrepareConfig
from data_pipeline.dedup.decontaminate import STEP, Decontaminator
from data_pipeline.errors import DataError
from data_pipeline.read import Broken, Document, expand, read
from data_pipeline.read.settings import Source

_FILES = 16
"""Files of a source to look into, at most."""


def clean_sample(config: PrepareConfig, count: int, examples: int = 3) -> DryRun:
    """Clean about `count` documents: as many from each source, from the beginnings of files all over it.

    DataError when there is no document that can be read, or a file is not there.
    """
    share = -(-count // len(config.sources))
    broken: list[Broken] = []
    documents = list(chain.from_iterable(_sample(source, share, broken) for source in config.sources))
    if not documents:
        first = "".join(f" The first: {one.source}, record {one.position}: {one.reason}." for one in broken)
        raise DataError(f"the sample is empty: no document could be read in the files looked into.{first}")
    last = (STEP, Decontaminator(config.decontaminate)) if config.decontaminate else None
    return dry_run(config.clean, documents, examples, last)


def _sample(source: Source, count: int, broken: list[Broken]) -> Iterator[Document]:
    files = expand(source)
    chosen = files[:: -(-len(files) // _FILES)]
    for place, file in enumerate(chosen):
        wanted = count * (place + 1) // len(chosen) - count * place // len(chosen)
        yield from islice(_documents(file, source, broken), wanted)


def _documents(file: str, source: Source, broken: list[Broken]) -> Iterator[Document]:
    """The documents of a file; the first record that cannot be read goes into `broken`."""
    for item in read(file, source):
        if isinstance(item, Document):
            yield item
        elif not broken:
            broken.append(item)
