"""What a shard set is, on one page of JSON: written last, believed first."""

import contextlib
import gc
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from data_pipeline.errors import DataError
from data_pipeline.files import sha256_of, write_atomically

SUFFIX = ".manifest.json"
Count = Annotated[int, Field(ge=0, lt=2**62)]
"""How many of something: what 64 bits hold."""
Dtype = Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"]
"""Type of one id in a file, little-endian."""
Origin = Literal["megamodel", "megatron", "datatrove", "dolma", "mds", "litdata"]
"""Whose tokens they are: ours, or another program's, whose files are read where they lie or were converted."""


_FOREIGN = ("_text_document.idx", ".idx", ".ds", ".npy", "/index.json")
"""What may stand after a prefix where other software wrote tokens."""


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


LONGEST_NAME = 4096
"""Characters of a path."""


class FileRecord(_Record):
    """One file, as it was when written or read."""

    name: Annotated[str, Field(max_length=LONGEST_NAME, pattern=r"^[^\x00]*$")]
    """Its path from the manifest's folder; for a source file, its path as it was given."""
    size: Count
    """Bytes."""
    sha256: str
    """Digest of the bytes; empty for a source file that only its name is known of."""


class ShardRecord(_Record):
    """One shard: its tokens, the boundaries of its documents, and where each of them came from."""

    num_documents: Count
    """Documents in the index."""
    num_tokens: Count
    """Tokens, each document's end-of-document token included."""
    bin: FileRecord
    """The token ids."""
    idx: FileRecord
    """The boundaries: Megatron's index where the name ends in .idx, else the documents' ends as raw u64."""
    documents: FileRecord | None
    """The provenance: a NumPy array, one row a document; null where nothing more is known than the document's number
    in `bin`."""

    @property
    def files(self) -> list[FileRecord]:
        """All files of the shard."""
        return [self.bin, self.idx, *([self.documents] if self.documents else [])]


class Manifest(_Record):
    """Everything about a shard set that its bytes do not say."""

    format: Literal["megamodel-shards"] = "megamodel-shards"
    """What this file is."""
    version: Literal[1, 2] = 1
    """Version of the format: 1 for shards of ours, 2 for what was imported."""
    origin: Origin = "megamodel"
    """Whose tokens they are; not in version 1."""
    dtype: Dtype
    """Type of one id in the token files, little-endian; in ours uint16 or int32."""
    vocab_size: Annotated[int, Field(ge=1, le=2**32)]
    """The tokenizer's largest id + 1."""
    tokenizer_sha256: str
    """Digest of the tokenizer.json that made the ids."""
    eos_id: Count
    """The id that ends a document; in shards of ours every document."""
    num_documents: Count
    """Documents in all shards."""
    num_tokens: Count
    """Tokens in all shards, end-of-document tokens included."""
    num_eos_tokens: Count
    """Documents that end in the end-of-document token."""
    num_empty_documents: Count
    """Documents of the sources that were left out because their text was empty."""
    text_bytes: Count
    """UTF-8 bytes of the documents' text; 0 where it is not known."""
    text_field: str
    """Field of the source records that held the text."""
    id_field: str
    """Field of the source records that held the document's id."""
    source_fields: dict[str, tuple[str, str]] = {}
    """By source file: its (text_field, id_field), where they are others than those above."""
    shards: list[ShardRecord]
    """The shards, in the order in which their tokens are counted."""
    sources: list[FileRecord]
    """The files the documents came from; provenance rows point into this list."""
    content_sha256: str
    """Identity of the token data, wherever it lies: the digest of the shards' own digests, in order."""
    manifest_sha256: str = ""
    """Digest of all the other fields; empty in manifests written before there was one."""

    def fields_of(self, source: str) -> tuple[str, str]:
        """The (text_field, id_field) of a source file."""
        return self.source_fields.get(source, (self.text_field, self.id_field))

    @property
    def num_bytes(self) -> int:
        """Bytes of all files of the set."""
        return sum(file.size for shard in self.shards for file in shard.files)


def manifest_digest(manifest: Manifest) -> str:
    """Digest every field but the digest itself."""
    exclude = _exclude(manifest) | {"manifest_sha256"}
    return hashlib.sha256(manifest.model_dump_json(exclude=exclude).encode()).hexdigest()


def _exclude(manifest: Manifest) -> set[str]:
    """Fields that are not written: version 1 knew no other origin, and few manifests have sources of several kinds."""
    return ({"origin"} if manifest.version == 1 else set()) | (set() if manifest.source_fields else {"source_fields"})


def content_digest(dtype: str, shards: list[ShardRecord]) -> str:
    """Digest the token data through the shards' digests, so that shards written apart can be joined without reading."""
    digest = hashlib.sha256(dtype.encode())
    for shard in shards:
        digest.update(f"\n{shard.num_tokens} {shard.bin.sha256}".encode())
    return digest.hexdigest()


def dtype_for(vocab_size: int) -> Literal["uint16", "int32"]:
    """Megatron's rule: two bytes an id below 65,500 words, four from there."""
    return "uint16" if vocab_size < 65_500 else "int32"


def describe_sources(paths: list[Path]) -> list[FileRecord]:
    """Size and digest of each source file."""
    try:
        return [FileRecord(name=str(path), size=path.stat().st_size, sha256=sha256_of(path)) for path in paths]
    except OSError as error:
        raise DataError(f"cannot read {error.filename}: {error.strerror}.") from error


def manifest_path(prefix: str | Path) -> Path:
    """PREFIX.manifest.json."""
    prefix = as_prefix(prefix)
    return prefix.with_name(prefix.name + SUFFIX)


def as_prefix(prefix: str | Path) -> Path:
    """PREFIX, which may end in a slash or in .manifest.json. DataError when it has no name for files to start with."""
    path = Path(str(prefix).removesuffix(SUFFIX))
    if path.name in ("", ".."):
        raise DataError(f"{str(prefix)!r} is no prefix of a shard set: give FOLDER/NAME, such as data/books.")
    return path


def write_manifest(prefix: Path, manifest: Manifest) -> None:
    """Write it whole or not at all. From here on the shard set exists."""
    manifest = manifest.model_copy(update={"manifest_sha256": manifest_digest(manifest)})
    text = manifest.model_dump_json(indent=1, exclude=_exclude(manifest))
    write_atomically(manifest_path(prefix), (text + "\n").encode())


def read_manifest(prefix: str | Path) -> Manifest:
    """Read PREFIX.manifest.json. DataError when it is missing, damaged, of another version, or does not add up."""
    manifest = parse_manifest(prefix)
    for problem in sum_problems(manifest):
        raise DataError(f"{manifest_path(prefix)}: {problem}; it was changed: bring it back or prepare the data again.")
    return manifest


def sum_problems(manifest: Manifest) -> Iterator[str]:
    """Say which totals are not the sums over the shards, or the sizes not those of the ids: a reader counts on them."""
    itemsize = np.dtype(manifest.dtype).itemsize
    for shard in manifest.shards:
        if shard.bin.size != itemsize * shard.num_tokens:
            yield (
                f"{shard.bin.name} has {shard.bin.size:,} bytes, {shard.num_tokens:,} ids of {manifest.dtype} "
                f"make {itemsize * shard.num_tokens:,}"
            )
    for field in ("num_tokens", "num_documents"):
        said, true = getattr(manifest, field), sum(getattr(shard, field) for shard in manifest.shards)
        if said != true:
            yield f"{field} is {said}, its shards make it {true}"


def parse_manifest(prefix: str | Path) -> Manifest:
    """Read PREFIX.manifest.json without asking whether it adds up; `verify` does so, and says what does not."""
    path = manifest_path(prefix)
    try:
        with _garbage_collection_paused():
            return Manifest.model_validate_json(path.read_bytes())
    except OSError as error:
        raise DataError(
            f"no shard set at {prefix}: cannot read {path} ({error.strerror}).{_hint(path)} "
            "`megamodel data prepare` and `data tokenize` write shard sets."
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise DataError(f"{path} is damaged or of another version: {where}: {first['msg']}; write it again.") from error


@contextlib.contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Ten thousand shards are forty thousand objects, none of them garbage: searching them again and again is slow."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _hint(path: Path) -> str:
    """Name the shard sets that do exist in that folder, or say how other software's tokens become one."""
    prefix = str(path).removesuffix(SUFFIX)
    if any(Path(prefix + end).exists() for end in _FOREIGN):
        return f" There are token files of other software: `megamodel data import {prefix}` makes a shard set of them."
    nearby = sorted(p.name.removesuffix(SUFFIX) for p in path.parent.glob(f"*{SUFFIX}"))[:5]
    return f" In {path.parent} there are: {', '.join(nearby)}." if nearby else ""


PROVENANCE = np.dtype([("file", "<u4"), ("record", "<u8"), ("offset", "<u8"), ("id_hash", "<u8")])
"""One row a document: index into Manifest.sources, record number in that file, byte where it starts, hash of its id."""
