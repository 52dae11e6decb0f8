"""Look into a shard set: its documents, decoded."""

from pathlib import Path
from typing import Any

from data_pipeline.errors import DataError
from data_pipeline.shards import ShardSet
from data_pipeline.tokenizer import Tokenizer

_SHOWN = 160


def tokenizer_of(shards: ShardSet, folder: Path | None) -> Tokenizer:
    """Load the tokenizer that made the set: from `folder`, or from `tokenizer` beside the set. DataError if another."""
    folder = folder or shards.prefix.parent / "tokenizer"
    tokenizer = Tokenizer.load(folder)
    if tokenizer.digest != shards.manifest.tokenizer_sha256:
        raise DataError(
            f"{folder} is not the tokenizer that made {shards.prefix} (sha256 {tokenizer.digest[:12]}..., the manifest "
            f"says {shards.manifest.tokenizer_sha256[:12]}...); give the right one with --tokenizer."
        )
    return tokenizer


def first_documents(shards: ShardSet, tokenizer: Tokenizer, count: int) -> list[dict[str, Any]]:
    """Describe the first documents: source, record, num_tokens, and the beginning of the text."""
    rows = []
    for document in range(min(count, shards.num_documents)):
        span, origin = shards.document_span(document), shards.provenance(document)
        num_tokens = span.end - span.first
        text = tokenizer.decode(shards.read(span.first, min(num_tokens, 2 * _SHOWN)))
        rows.append(
            {
                "source": origin.source,
                "record": origin.position,
                "num_tokens": num_tokens,
                "text": shorten(text),
            }
        )
    return rows


def shorten(text: str, length: int = _SHOWN) -> str:
    """One line of at most `length` characters: the beginning and, when it does not fit, the end."""
    line = " ".join(text.split())
    if len(line) <= length:
        return line
    half = (length - 5) // 2
    return f"{line[:half]} ... {line[-half:]}"
