"""Documents to shards on this machine's cores: the encoder uses them all, the bytes never depend on their number."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.progress import progress
from data_pipeline.read import Document, expand, read_documents
from data_pipeline.shards import TOKENS_PER_SHARD, Manifest, ShardWriter, describe_sources
from data_pipeline.shards.manifest import manifest_path
from data_pipeline.tokenizer import Tokenizer, train_tokenizer
from data_pipeline.tokenizer.settings import ModelKind
from data_pipeline.tokenizer.tokenizer import FILES

_BATCH_CHARACTERS = 1 << 22


def tokenize(
    files: Sequence[str | Path],
    tokenizer: Tokenizer,
    prefix: str | Path,
    text_field: str = "text",
    id_field: str = "id",
    tokens_per_shard: int = TOKENS_PER_SHARD,
    force: bool = False,
) -> Manifest:
    """Write the shard set PREFIX from files, globs or folders. DataError when PREFIX exists and not `force`."""
    if manifest_path(prefix).exists() and not force:
        raise DataError(f"the shard set {prefix} exists; give --force to replace it, or another --out.")
    paths = _paths(files)
    with ShardWriter(prefix, tokenizer, describe_sources(paths), tokens_per_shard, text_field, id_field) as writer:
        with reading("tokenizing", paths, text_field, id_field) as documents:
            write_documents(documents, tokenizer, lambda document: writer)
        if writer.num_documents == 0:
            raise DataError(f"the corpus is empty: no document with text in {', '.join(map(str, paths[:3]))}.")
        return writer.commit()


def train_tokenizer_on(
    files: Sequence[str | Path],
    vocab_size: int,
    text_field: str = "text",
    model_max_length: int = 2048,
    model: ModelKind = "byte_bpe",
    lowercase: bool = False,
) -> Tokenizer:
    """Train a tokenizer on files, globs or folders. DataError when they hold no text."""
    with reading("training the tokenizer", _paths(files), text_field, "id") as documents:
        texts = (document.text for document in documents if document.text)
        first = next(texts, None)
        if first is None:
            raise DataError(f"the corpus is empty: no document with text in {', '.join(map(str, files))}.")
        return train_tokenizer(chain([first], texts), vocab_size, model_max_length, model, lowercase)


def train_tokenizer_into(
    folder: Path,
    files: Sequence[str | Path],
    vocab_size: int,
    text_field: str = "text",
    model_max_length: int = 2048,
    force: bool = False,
    model: ModelKind = "byte_bpe",
    lowercase: bool = False,
) -> Tokenizer:
    """Train a tokenizer and save it. DataError when the folder holds one and not `force`."""
    if any((folder / name).exists() for name in FILES) and not force:
        raise DataError(f"{folder} holds a tokenizer; give --force to replace it, or another --out.")
    tokenizer = train_tokenizer_on(files, vocab_size, text_field, model_max_length, model, lowercase)
    tokenizer.save(folder)
    return tokenizer


def _paths(files: Sequence[str | Path]) -> list[Path]:
    return [Path(path) for path in expand(files)]


@contextlib.contextmanager
def reading(what: str, paths: Sequence[Path], text_field: str, id_field: str) -> Iterator[Iterator[Document]]:
    """Give the documents of some files, under a progress bar of the bytes read."""
    with progress(what, sum(path.stat().st_size for path in paths)) as advance:
        yield read_documents(paths, text_field, id_field, advance)


def write_documents(
    documents: Iterable[Document], tokenizer: Tokenizer, writer_of: Callable[[Document], ShardWriter]
) -> None:
    """Encode documents in batches and append each to the writer that `writer_of` names, in the order they came."""
    for batch in _batches(documents):
        for document, ids in zip(batch, tokenizer.encode_batch([d.text for d in batch]), strict=True):
            writer_of(document).add(
                ids,
                text_bytes=len(document.text.encode()),
                source=document.source,
                record=document.position,
                offset=document.offset,
                id_hash=document.identity_hash,
            )


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Group documents until they hold enough text to keep every core busy."""
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
