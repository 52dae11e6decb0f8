"""Write one rank's tensors as a safetensors file, digested on the way to the disk."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from megamodel.checkpoint.manifest import FileEntry

DTYPES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int64: "I64"}


SEGMENT = 2**26
"""Bytes under one digest: large enough to read fast, small enough to share a file among many readers."""


def write_tensor_file(path: Path, tensors: Mapping[str, Tensor], segment: int = SEGMENT) -> FileEntry:
    """Write contiguous CPU tensors to `path` in the safetensors format, fsync, and return size and digests.

    The digests are of the bytes handed to the operating system, taken from memory: a fault between here and the platter
    shows as a difference when the file is read back.
    """
    digests = _Digests(segment)
    with path.open("wb", buffering=0) as file:
        for part in [_header(tensors), *(_bytes(t) for t in tensors.values())]:
            digests.update(part)
            _write_all(file.fileno(), part)
        os.fsync(file.fileno())
    return digests.entry()


def digest_segment(path: Path, start: int, length: int) -> str:
    """BLAKE2b-256 of `length` bytes of a file from `start` on."""
    digest = _new_digest()
    with path.open("rb", buffering=0) as file:
        file.seek(start)
        while length and (part := file.read(min(length, _READ))):
            digest.update(part)
            length -= len(part)
    return digest.hexdigest()


_READ = 2**20


def _new_digest() -> "hashlib.blake2b":
    return hashlib.blake2b(digest_size=32)


class _Digests:
    """The digests of a stream of bytes, segment by segment."""

    def __init__(self, segment: int) -> None:
        self.segment, self.size = segment, 0
        self.finished: list[str] = []
        self.current = _new_digest()

    def update(self, part: memoryview) -> None:
        while part:
            piece = part[: self.segment - self.size % self.segment]
            self.current.update(piece)
            self.size += len(piece)
            part = part[len(piece) :]
            if self.size % self.segment == 0:
                self.finished.append(self.current.hexdigest())
                self.current = _new_digest()

    def entry(self) -> FileEntry:
        last = [self.current.hexdigest()] if self.size % self.segment else []
        return FileEntry(size=self.size, segment=self.segment, digests=(*self.finished, *last))


def _header(tensors: Mapping[str, Tensor]) -> memoryview:
    """The format's header: u64 length, then JSON with type, shape and byte range of each tensor, padded to 8 bytes."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, tensor in tensors.items():
        end = start + tensor.numel() * tensor.element_size()
        entries[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return memoryview(len(text).to_bytes(8, "little") + text)


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.view(-1).view(torch.uint8).numpy().data


def _write_all(descriptor: int, part: memoryview) -> None:
    while part:
        part = part[os.write(descriptor, part[: 2**30]) :]
