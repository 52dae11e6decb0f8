"""Cleaned documents on disk, between the passes: blocks of JSON lines, compressed, and where they begin."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import orjson
import zstandard

from data_pipeline.dedup.shingles import batches
from data_pipeline.errors import DataError
from data_pipeline.read import Document

DOCUMENTS, BLOCKS = "documents.zst", "blocks.bin"
BLOCK = np.dtype([("end", "<u8"), ("rows", "<u8"), ("raw", "<u8")])
"""Of each block: the byte after it, the number of documents up to its end, and its uncompressed bytes."""
_LEVEL = 1
_BLOCK_CHARACTERS = 1 << 17
"""About as many are in a block. Candidates for near duplicates are read one here, one there: each costs a block."""


class StoreWriter:
    """Appends blocks of documents; the files belong to the caller, who may cut them back between blocks."""

    def __init__(self, documents: BinaryIO, blocks: BinaryIO, rows: int, files: dict[str, int]) -> None:
        """Go on after `rows` documents; `files` numbers the documents' sources."""
        self._documents, self._blocks = documents, blocks
        self._rows, self._files = rows, files
        self._end = documents.tell()
        self._compressor = zstandard.ZstdCompressor(level=_LEVEL, write_checksum=True)

    def add(self, documents: Sequence[Document]) -> None:
        """Append documents, as a block or several."""
        for block in batches(documents, lambda document: len(document.text), _BLOCK_CHARACTERS):
            self._add(block)

    def _add(self, documents: Sequence[Document]) -> None:
        raw = b"\n".join(orjson.dumps(self._row(document)) for document in documents)
        data = self._compressor.compress(raw)
        self._documents.write(data)
        self._end += len(data)
        self._rows += len(documents)
        self._blocks.write(np.array([(self._end, self._rows, len(raw))], BLOCK).tobytes())

    def _row(self, document: Document) -> tuple[str, int, int, int, str | None, str | None]:
        file = self._files[document.source]
        return document.text, file, document.position, document.offset, document.id, document.language


class Store:
    """The documents of one clean task, by their row."""

    def __init__(self, folder: Path) -> None:
        """Open a finished task's folder."""
        self._path = folder / DOCUMENTS
        self.blocks = np.fromfile(folder / BLOCKS, BLOCK)
        self.num_documents = int(self.blocks["rows"][-1]) if len(self.blocks) else 0

    def documents(self, number: int, files: Sequence[str]) -> list[Document]:
        """Return the documents of a block; `files` are the names behind the numbers of their sources."""
        return [
            Document(text, files[file], position, id_, offset, language)
            for text, file, position, offset, id_, language in self._read(number)
        ]

    def first_row(self, number: int) -> int:
        """Row of a block's first document."""
        return int(self.blocks["rows"][number - 1]) if number else 0

    def block_bytes(self, number: int) -> int:
        """Bytes of a block on the disk."""
        return int(self.blocks["end"][number]) - self._start(number)

    def texts(self, rows: np.ndarray) -> Iterator[tuple[int, str]]:
        """Yield (row, text) of some rows, ascending; each block is read once."""
        blocks = np.searchsorted(self.blocks["rows"], rows, side="right")
        for block in np.unique(blocks).tolist():
            wanted, first = rows[blocks == block].tolist(), self.first_row(block)
            stored = self._read(block, [row - first for row in wanted])
            yield from ((row, document[0]) for row, document in zip(wanted, stored, strict=True))

    def _start(self, number: int) -> int:
        return int(self.blocks["end"][number - 1]) if number else 0

    def _read(self, number: int, places: Sequence[int] | None = None) -> list[list[Any]]:
        """The documents of a block, or those at some places in it: only what is wanted is parsed."""
        start = self._start(number)
        try:
            with self._path.open("rb") as file:
                file.seek(start)
                data = file.read(self.block_bytes(number))
            raw = zstandard.ZstdDecompressor().decompress(data, max_output_size=int(self.blocks["raw"][number]))
            lines = raw.split(b"\n") if raw else []
            return [orjson.loads(line) for line in (lines if places is None else map(lines.__getitem__, places))]
        except (zstandard.ZstdError, ValueError, OSError) as error:
            raise DataError(
                f"{self._path} is damaged at byte {start:,} ({error}); remove its folder and give the command again."
            ) from error


class Texts:
    """Texts by document number (task << 32 | row), over the stores of all clean tasks."""

    def __init__(self, folders: Sequence[Path]) -> None:
        """Take the folders of the clean tasks, in order."""
        self._folders = folders

    def read(self, numbers: np.ndarray) -> Iterator[tuple[int, str]]:
        """Yield (number, text) of some documents, uint64 ascending; each block is read once."""
        tasks, firsts = np.unique(numbers >> np.uint64(32), return_index=True)
        for task, mine in zip(tasks.tolist(), np.split(numbers, firsts[1:]), strict=True):
            rows = (mine & np.uint64(2**32 - 1)).astype(np.int64)
            yield from (((task << 32) | row, text) for row, text in Store(self._folders[task]).texts(rows))
