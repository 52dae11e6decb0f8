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


def write_tensor_file(path: Path, tensors: Mapping[str, Tensor]) -> FileEntry:
    """Write contiguous CPU tensors to `path` in the safetensors format, fsync, and return size and digest.

    The digest is of the bytes handed to the operating system, taken from memory: a fault between here and the platter
    shows as a difference when the file is read back.
    """
    digest, size = hashlib.blake2b(digest_size=32), 0
    with path.open("wb", buffering=0) as file:
        for part in [_header(tensors), *(_bytes(t) for t in tensors.values())]:
            digest.update(part)
            size += len(part)
            _write_all(file.fileno(), part)
        os.fsync(file.fileno())
    return FileEntry(size=size, digest=digest.hexdigest())


def digest_file(path: Path) -> str:
    """BLAKE2b-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=32)).hexdigest()


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
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def _write_all(descriptor: int, part: memoryview) -> None:
    while part:
        part = part[os.write(descriptor, part[: 2**30]) :]
