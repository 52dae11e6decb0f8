"""Megatron's index file (.idx), little-endian, as megatron-core, GPT-NeoX and NeMo write and read it.

magic `MMIDIDX\\0\\0`, u64 version 1, u8 dtype code, u64 sequences N, u64 document entries D = documents + 1,
i32 lengths [N], i64 byte offsets [N], i64 document index [D]: the sequence with which each document starts, and N.
In shards of ours every document is one sequence; other programs also write several.
"""

import struct
from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data_pipeline.errors import DataError
from data_pipeline.shards.boundaries import Boundaries, map_file

_HEADER = struct.Struct("<9sQBQQ")
_MAGIC = b"MMIDIDX\x00\x00"
_OLD_MAGIC = b"TNTIDX\x00\x00"
_CODES = {"uint8": 1, "int8": 2, "int16": 3, "int32": 4, "int64": 5, "uint16": 8}
_NAMES = {code: name for name, code in _CODES.items()}
_BLOCK = 1 << 20
LONGEST = 2**31 - 1
"""Tokens that one sequence can hold."""


class Index(Boundaries):
    """An .idx file, mapped."""

    def __init__(self, path: Path) -> None:
        """Map the file. DataError when it is not an index of integers, or its size is not what its header promises."""
        view = map_file(path)
        if len(view) < _HEADER.size:
            raise DataError(f"{path} is cut short at byte {len(view)}, inside its header; bring it back.")
        magic, version, code, sequences, entries = _HEADER.unpack_from(view)
        _check_header(path, magic, version, code)
        expected = _HEADER.size + 12 * sequences + 8 * entries
        if len(view) == expected + sequences and sequences:
            raise DataError(f"{path} is the index of a multimodal dataset; only one of text can be read.")
        if len(view) != expected or not entries:
            raise DataError(
                f"{path} has {len(view):,} bytes, its header promises {expected:,} ({sequences:,} sequences, "
                f"{entries:,} document entries): it was cut short or is damaged; bring it back."
            )
        self.path = path
        self.dtype = _NAMES[code]
        self.num_documents = entries - 1
        self.num_sequences = sequences
        self.lengths = np.frombuffer(view, "<i4", sequences, _HEADER.size)
        """int32 [sequences]: tokens."""
        self.offsets = np.frombuffer(view, "<i8", sequences, _HEADER.size + 4 * sequences)
        """int64 [sequences]: byte in the .bin where each starts."""
        self.document_index = np.frombuffer(view, "<i8", entries, _HEADER.size + 12 * sequences)
        """int64 [documents + 1]: the sequence with which each document starts."""
        self._itemsize = np.dtype(self.dtype).itemsize
        self.num_tokens = self._num_tokens()
        """Tokens of all sequences, as the last of them has it."""

    def ends(self, first: int, last: int) -> np.ndarray:
        """Return the ends of documents first..last-1. DataError when the document index points outside."""
        following = self.document_index[first + 1 : last + 1]
        if len(following) and not (following.min() >= 0 and following.max() <= self.num_sequences):
            raise DataError(f"{self.path}: the document index points outside the sequences; bring the file back.")
        ends = np.full(len(following), self.num_tokens, np.int64)
        inside = following < self.num_sequences
        ends[inside] = self.offsets[following[inside]] // self._itemsize
        return ends

    def num_ended(self, token: int) -> int:
        """Count the documents that end at or before this token."""
        # np.searchsorted would copy these arrays, which do not lie on multiples of eight bytes.
        sequence = self.num_sequences
        if token < self.num_tokens:
            sequence = bisect_right(self.offsets, token * self._itemsize) - 1
        return bisect_right(self.document_index, sequence) - 1

    def problem(self, num_tokens: int) -> str | None:
        """Say what is wrong with the sequences or the documents, or nothing."""
        place = 0
        for first in range(0, self.num_sequences, _BLOCK):
            lengths = self.lengths[first : first + _BLOCK].astype(np.int64)
            ends = place + np.cumsum(lengths)
            offsets = self.offsets[first : first + _BLOCK]
            wrong = np.flatnonzero((lengths < 0) | (offsets != (ends - lengths) * self._itemsize))
            if len(wrong):
                return (
                    f"{self.path}: the boundaries do not add up from document {self._document(first + int(wrong[0]))} "
                    f"on (sequence {first + int(wrong[0])})."
                )
            place = int(ends[-1])
        if self.document_index[0] != 0 or self.document_index[-1] != self.num_sequences:
            return (
                f"{self.path}: its documents are the sequences {self.document_index[0]:,} to "
                f"{self.document_index[-1]:,}, there are {self.num_sequences:,}: some belong to no document."
            )
        return super().problem(num_tokens)

    def _document(self, sequence: int) -> int:
        return max(0, bisect_right(self.document_index, sequence) - 1)

    def _num_tokens(self) -> int:
        if not self.num_sequences:
            return 0
        return int(self.offsets[-1]) // self._itemsize + int(self.lengths[-1])


def _check_header(path: Path, magic: bytes, version: int, code: int) -> None:
    if magic.startswith(_OLD_MAGIC):
        raise DataError(f"{path} is of Megatron's older, unmapped kind (TNTIDX); preprocess it again as `mmap`.")
    if magic != _MAGIC or version != 1:
        raise DataError(f"{path} is not a Megatron index of version 1 (bytes 0 to {_HEADER.size}).")
    if code not in _NAMES:
        raise DataError(f"{path} has the type code {code} at byte 17: token ids are integers (codes 1 to 5 and 8).")


def index_blocks(dtype: str, lengths: np.ndarray) -> Iterator[bytes]:
    """Yield the .idx of a shard, made from its documents' lengths in tokens, block by block."""
    count = len(lengths)
    yield _HEADER.pack(_MAGIC, 1, _CODES[dtype], count, count + 1)
    for first in range(0, count, _BLOCK):
        yield lengths[first : first + _BLOCK].astype("<i4").tobytes()
    place = 0
    for first in range(0, count, _BLOCK):
        some = lengths[first : first + _BLOCK]
        ends = place + np.cumsum(some, dtype=np.int64)
        yield ((ends - some) * np.dtype(dtype).itemsize).astype("<i8").tobytes()
        place = int(ends[-1])
    for first in range(0, count + 1, _BLOCK):
        yield np.arange(first, min(first + _BLOCK, count + 1), dtype="<i8").tobytes()
