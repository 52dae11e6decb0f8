"""Make a shard set of other software's tokens: a manifest that points at their files where they lie."""

import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast, get_args

from data_pipeline.errors import DataError
from data_pipeline.files import folder_aside, sha256_of, sync_folder
from data_pipeline.shards.foreign.convert import convert, sample_files
from data_pipeline.shards.foreign.find import Found
from data_pipeline.shards.foreign.tokens import TokenFileFound, dtype_of, look_at, width, write_ends
from data_pipeline.shards.manifest import (
    Dtype,
    FileRecord,
    Manifest,
    Origin,
    ShardRecord,
    as_prefix,
    content_digest,
    manifest_path,
    parse_manifest,
    write_manifest,
)
from data_pipeline.shards.scan import Scan, scan
from data_pipeline.tokenizer import Tokenizer

_ENOUGH = 1024
"""Tokens from which on every second item says whether the ids are really wider."""


@dataclass(frozen=True)
class Imported:
    """The shard set that was made."""

    prefix: Path
    manifest: Manifest
    notes: list[str]
    """What is unusual about it, a sentence each."""


@dataclass
class _Making:
    """The shard set being made."""

    out: Path
    tokenizer: Tokenizer
    given: str | None
    """The type of an id as the user gives it."""
    aside: Path
    advance: Callable[[int], object]
    dtype: str = ""
    """The type of an id in the files so far."""
    sources: dict[str, int] = field(default_factory=dict)
    shards: list[ShardRecord] = field(default_factory=list)
    num_eos: int = 0
    notes: list[str] = field(default_factory=list)


def bring_in(
    found: Found,
    tokenizer: Tokenizer,
    out: str | Path | None = None,
    dtype: str | None = None,
    column: str | None = None,
    force: bool = False,
    advance: Callable[[int], object] = lambda size: None,
) -> Imported:
    """Read every byte of the token files once and write OUT.manifest.json, and beside it what the format lacks.

    Samples of MDS and litData are written as token files of ours; `column` says which of them holds the ids or the
    text. `dtype` is needed only where neither the format nor the sizes prove it. `advance` is told the bytes done.
    DataError when an id is outside the tokenizer's vocabulary, boundaries are not those of the file, or a set is there
    already.
    """
    if dtype is not None and dtype not in get_args(Dtype):
        raise DataError(f"{dtype!r} is no type of token ids; there are: {', '.join(get_args(Dtype))}.")
    prefix = as_prefix(out or found.prefix)
    older = _older(prefix, force)
    try:
        with folder_aside(prefix) as aside:
            making = _Making(prefix, tokenizer, dtype, aside, advance)
            if found.format in ("mds", "litdata"):
                _convert(making, found, column)
            else:
                for path in found.files:
                    _add(making, found.format, path)
            return _publish(making, found, older)
    except OSError as error:
        raise DataError(f"cannot write the shard set {prefix}: {error.strerror or error}.") from error


def _older(prefix: Path, force: bool) -> list[Path]:
    """Return the files that an import wrote here before. DataError when they must stay."""
    if not manifest_path(prefix).exists():
        return []
    if not force:
        raise DataError(f"{manifest_path(prefix)} is there already; give another --out, or --force to replace it.")
    manifest = parse_manifest(prefix)
    if manifest.origin == "megamodel":
        raise DataError(f"{prefix} is a shard set of its own, not an imported one; give another --out.")
    written = "_documents." if manifest.origin in ("datatrove", "dolma") else "_"
    names = [file.name for shard in manifest.shards for file in shard.files if manifest.origin != "megatron"]
    ours = re.compile(re.escape(prefix.name) + r"_\d{5}" + re.escape(written) + r"[a-z_.]+")
    return [prefix.parent / name for name in names if ours.fullmatch(name)]


def _convert(making: _Making, found: Found, column: str | None) -> None:
    """Write the samples as token files beside the manifest to be, and add those."""
    files = sample_files(found.format, found.files[0], column, making.given)
    making.sources = {str(file.path): number for number, file in enumerate(files)}
    bins = convert(files, making.tokenizer, making.aside, making.out.name, making.advance)
    making.given, making.advance = None, lambda size: None
    for path in bins:
        _add(making, "megatron", path)


def _add(making: _Making, format: str, path: Path) -> None:
    """Check one token file and append its shard; an empty one is left out."""
    name = f"{making.out.name}_{len(making.shards):05d}"
    found = look_at(format, path, making.aside, name, making.sources)
    if found.size == 0:
        making.notes.append(f"{path} is empty and was left out.")
        return
    dtype, certain = dtype_of(found, making.given)
    if making.shards and making.dtype != dtype:
        raise DataError(f"{path} holds {dtype}, the files before it {making.dtype}: import them apart.")
    making.dtype = dtype
    if found.boundaries is None:
        found.boundaries = write_ends(found, dtype, making.tokenizer.eos_id, making.aside / f"{name}_documents.index")
    scanned = _scan(making, found, dtype)
    if not certain:
        _refuse_wider(found, dtype, scanned, making.tokenizer.vocab_size)
    making.num_eos += scanned.num_ended
    making.shards.append(_record(making, found, scanned))


def _scan(making: _Making, found: TokenFileFound, dtype: str) -> Scan:
    """Read the tokens. DataError when they cannot be documents of this tokenizer."""
    assert found.boundaries is not None
    wrong = found.boundaries.problem(found.size // width(dtype))
    if wrong:
        raise DataError(wrong)
    vocab_size, eos_id = making.tokenizer.vocab_size, making.tokenizer.eos_id
    scanned = scan(found.bin, dtype, vocab_size, eos_id, found.boundaries, making.advance)
    if scanned.outside:
        raise DataError(
            f"{found.bin} holds the id {scanned.outside.id} at byte {scanned.outside.byte:,}, the tokenizer has "
            f"{vocab_size:,} ids: it was made by another tokenizer, or its ids are not {dtype}."
        )
    return scanned


def _refuse_wider(found: TokenFileFound, dtype: str, scanned: Scan, vocab_size: int) -> None:
    """Ids twice as wide look like valid ones with, in every second place, a number that is always tiny."""
    size = width(dtype)
    if size < 8 and found.size >= _ENOUGH * size and scanned.widest_second <= (vocab_size - 1) >> (8 * size):
        raise DataError(
            f"every second id in {found.bin}, read as {dtype}, is at most {scanned.widest_second}: they are ids of "
            f"{2 * size} bytes; give --dtype uint{16 * size}."
        )


def _record(making: _Making, found: TokenFileFound, scanned: Scan) -> ShardRecord:
    assert found.boundaries is not None
    bin_record = FileRecord(name=_name(making, found.bin), size=found.size, sha256=scanned.sha256)
    return ShardRecord(
        num_documents=found.boundaries.num_documents,
        num_tokens=found.size // width(making.dtype),
        bin=bin_record,
        idx=_file_record(making, found.boundaries.path),
        documents=_file_record(making, found.documents) if found.documents else None,
    )


def _file_record(making: _Making, path: Path) -> FileRecord:
    return FileRecord(name=_name(making, path), size=path.stat().st_size, sha256=sha256_of(path))


def _name(making: _Making, path: Path) -> str:
    """The path from the manifest's folder where it is below it, else the whole path."""
    if path.parent == making.aside:
        return path.name
    whole, folder = path.resolve(), making.out.parent.resolve()
    return str(whole.relative_to(folder) if whole.is_relative_to(folder) else whole)


def _publish(making: _Making, found: Found, older: list[Path]) -> Imported:
    """Put the files that were written beside the manifest, and the manifest last."""
    if not making.shards:
        raise DataError(f"{found.prefix}: all its token files are empty.")
    manifest = _manifest(making, found.format)
    manifest_path(making.out).unlink(missing_ok=True)
    for path in older:
        path.unlink(missing_ok=True)
    for file in sorted(making.aside.iterdir()):
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        file.replace(making.out.parent / file.name)
    sync_folder(making.out.parent)
    write_manifest(making.out, manifest)
    return Imported(making.out, manifest, making.notes + _notes(manifest))


def _manifest(making: _Making, format: str) -> Manifest:
    return Manifest(
        version=2,
        origin=cast(Origin, format),
        dtype=cast(Dtype, making.dtype),
        vocab_size=making.tokenizer.vocab_size,
        tokenizer_sha256=making.tokenizer.digest,
        eos_id=making.tokenizer.eos_id,
        num_documents=sum(shard.num_documents for shard in making.shards),
        num_tokens=sum(shard.num_tokens for shard in making.shards),
        num_eos_tokens=making.num_eos,
        num_empty_documents=0,
        text_bytes=0,
        text_field="text",
        id_field="id",
        shards=making.shards,
        sources=[FileRecord(name=name, size=0, sha256="") for name in making.sources],
        content_sha256=content_digest(making.dtype, making.shards),
    )


def _notes(manifest: Manifest) -> list[str]:
    without = manifest.num_documents - manifest.num_eos_tokens
    if not without:
        return []
    return [
        f"{without:,} of {manifest.num_documents:,} documents do not end in the tokenizer's end-of-document token "
        f"({manifest.eos_id}): where documents are told apart by it (data.separate_documents), these are not."
    ]
