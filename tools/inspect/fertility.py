"""What tokenizers make of some files: the beginning of each, with its language found offline."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from data_pipeline.clean.language import Language
from data_pipeline.errors import DataError
from data_pipeline.progress import progress
from data_pipeline.read import Broken, Document, expand, read, shown
from data_pipeline.read.settings import FilesSource
from data_pipeline.tokenizer import Tokenizer, with_fallback
from data_pipeline.tokenizer.fertility import ALL, Fertility, measure_fertility


@dataclass(frozen=True)
class Report:
    """Sums by the tokenizer's path and the group of documents."""

    tokenizers: dict[str, dict[str, Fertility]]

    def as_json(self) -> dict[str, Any]:
        """Sums and ratios, for machines."""
        return {
            name: {group: asdict(row) | row.ratios for group, row in groups.items()}
            for name, groups in self.tokenizers.items()
        }


def compare_tokenizers(
    files: Sequence[str],
    tokenizers: Sequence[Path],
    text_field: str,
    max_bytes: int,
    eos_token: str | None = None,
    pattern: str | None = None,
) -> Report:
    """Encode at most about `max_bytes` of each file with each tokenizer. DataError when there is no text."""

    unread: dict[str, str] = {}

    def measure(fast: bool) -> list[dict[str, Fertility]]:
        loaded = [Tokenizer.load(path, fast=fast, eos_token=eos_token, pattern=pattern) for path in tokenizers]
        return measure_fertility(loaded, _documents(files, text_field, max_bytes, unread))

    groups = with_fallback(measure)
    for told in unread.values():
        print(f"note: could not be read: {told}", file=sys.stderr)
    if not groups[0][ALL].bytes:
        raise DataError(f"the corpus is empty: no document with text in {', '.join(files[:3])}.")
    return Report({str(path): table for path, table in zip(tokenizers, groups, strict=True)})


def _documents(files: Sequence[str], text_field: str, max_bytes: int, unread: dict[str, str]) -> Iterator[Document]:
    """The documents at the beginning of each file, each with its language; `unread` takes each file's first broken
    record."""
    source = FilesSource(kind="files", files=list(files), text_field=text_field)
    identify = Language(step="language").build()
    paths = expand(source)
    with progress("encoding", max_bytes * len(paths)) as advance:
        for path in paths:
            left = max_bytes
            for item in read(path, source):
                if isinstance(item, Broken):
                    unread.setdefault(path, f"{shown(path)}, record {item.position}: {item.reason}")
                    continue
                document = identify(item)
                assert isinstance(document, Document)  # it keeps all languages
                yield document
                size = len(item.text.encode("utf-8", "replace"))
                advance(min(size, left))
                left = max(0, left - size)
                if not left:
                    break
            advance(left)
