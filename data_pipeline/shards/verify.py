"""Check a shard set against its manifest, byte by byte, and say what differs and where."""

from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.files import sha256_of
from data_pipeline.shards.boundaries import Boundaries, open_boundaries
from data_pipeline.shards.manifest import (
    FileRecord,
    Manifest,
    ShardRecord,
    as_prefix,
    content_digest,
    dtype_for,
    manifest_digest,
    parse_manifest,
    sum_problems,
)
from data_pipeline.shards.megatron import Index
from data_pipeline.shards.scan import Scan, scan

Advance = Callable[[int], object]


def verify(prefix: str | Path, advance: Advance = lambda size: None) -> list[str]:
    """Return the problems found, one sentence each; none when every byte is as it was written.

    `advance` is told the bytes checked since its last call. DataError when there is no manifest to check against.
    """
    prefix = as_prefix(prefix)
    manifest = parse_manifest(prefix)
    name = f"{prefix}.manifest.json"
    problems = list(_manifest_problems(manifest, name))
    scans = []
    for shard in manifest.shards:
        for record in shard.files[1:]:
            problems += _file_problems(prefix.parent / record.name, record)
            advance(record.size)
        scans.append(_scan(prefix.parent, shard, manifest, problems, advance))
    ended = sum(found.num_ended for found in scans if found)
    if all(scans) and ended != manifest.num_eos_tokens:
        problems.append(f"{name}: num_eos_tokens is {manifest.num_eos_tokens}, the tokens make it {ended}.")
    return problems


def _manifest_problems(manifest: Manifest, name: str) -> Iterator[str]:
    """The sums in the manifest must agree with each other."""
    pairs = [("content_sha256", manifest.content_sha256, content_digest(manifest.dtype, manifest.shards))]
    if manifest.origin == "megamodel":
        pairs.append(("dtype", manifest.dtype, dtype_for(manifest.vocab_size)))
    yield from (f"{name}: {problem}." for problem in sum_problems(manifest))
    if manifest.manifest_sha256 not in ("", manifest_digest(manifest)):
        yield f"{name} changed after it was written: its fields do not match its own manifest_sha256."
    for field, said, true in pairs:
        if said != true:
            yield f"{name}: {field} is {said}, its shards make it {true}."


def _file_problems(path: Path, record: FileRecord) -> Iterator[str]:
    try:
        wrong = _wrong_size(path, record)
        if wrong:
            yield wrong
        elif (digest := sha256_of(path)) != record.sha256:
            yield _changed(path, digest, record)
    except OSError as error:
        yield f"{path} cannot be read: {error.strerror}."


def _wrong_size(path: Path, record: FileRecord) -> str | None:
    size = path.stat().st_size
    if size == record.size:
        return None
    kind = f"cut short at byte {size:,}" if size < record.size else f"longer than it was from byte {record.size:,}"
    return f"{path} has {size:,} bytes, the manifest says {record.size:,}: {kind}."


def _changed(path: Path, digest: str, record: FileRecord) -> str:
    return (
        f"{path} changed after it was written: its sha256 is {digest[:16]}..., "
        f"the manifest says {record.sha256[:16]}..."
    )


def _scan(folder: Path, shard: ShardRecord, manifest: Manifest, problems: list[str], advance: Advance) -> Scan | None:
    """Check the tokens and their boundaries; None when the tokens cannot be read as the manifest says."""
    boundaries = _sound_boundaries(folder / shard.idx.name, shard, manifest, problems)
    path = folder / shard.bin.name
    try:
        wrong = _wrong_size(path, shard.bin)
        if wrong:
            problems.append(wrong)
            return None
        found = scan(path, manifest.dtype, manifest.vocab_size, manifest.eos_id, boundaries, advance)
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror}.")
        return None
    except DataError as error:
        problems.append(str(error))
        return None
    problems += _token_problems(path, found, shard.bin, manifest)
    return found if boundaries else None


def _sound_boundaries(path: Path, shard: ShardRecord, manifest: Manifest, problems: list[str]) -> Boundaries | None:
    """What a reader relies on: boundaries of that many documents which add up."""
    try:
        boundaries = open_boundaries(path)
        wrong = boundaries.problem(shard.num_tokens)
    except DataError as error:
        wrong = str(error)
    if wrong:
        problems.append(wrong)
        return None
    dtype = boundaries.dtype if isinstance(boundaries, Index) else manifest.dtype
    if dtype != manifest.dtype or boundaries.num_documents != shard.num_documents:
        problems.append(
            f"{path} holds {boundaries.num_documents} documents of {dtype}, "
            f"the manifest says {shard.num_documents} of {manifest.dtype}."
        )
        return None
    return boundaries


def _token_problems(path: Path, found: Scan, record: FileRecord, manifest: Manifest) -> Iterator[str]:
    """The ids are those that were written, all of the vocabulary; in shards of ours an end is after each document."""
    if found.sha256 != record.sha256:
        yield _changed(path, found.sha256, record)
    if found.outside:
        yield (
            f"{path}: the id {found.outside.id} at byte {found.outside.byte:,} is outside the vocabulary "
            f"of {manifest.vocab_size}."
        )
    if manifest.origin == "megamodel" and found.unended_byte is not None:
        yield f"{path}: the document that ends at byte {found.unended_byte:,} has no end-of-document token."
