"""Is every byte of a checkpoint as it was written? In segments, which threads and ranks can share."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from megamodel.checkpoint.manifest import FileEntry, read_manifest
from megamodel.checkpoint.tensor_file import digest_segment
from megamodel.errors import CheckpointError, CheckpointUnreadable


class Segment(NamedTuple):
    """A stretch of a checkpoint's file that has a digest of its own."""

    path: Path
    file_size: int
    start: int
    length: int
    digest: str


def contents(checkpoint: Path) -> tuple[dict[str, FileEntry], list[str]]:
    """The files of a checkpoint, and one sentence for each fault that its manifest shows by itself.

    Raises CheckpointUnreadable when it may be good but this process cannot tell.
    """
    try:
        manifest = read_manifest(checkpoint)
    except CheckpointUnreadable:
        raise
    except CheckpointError as error:
        return {}, [str(error)]
    return manifest.files, [f"{checkpoint}: {problem}" for problem in manifest.coverage_problems()]


def segments(checkpoint: Path, files: Mapping[str, FileEntry]) -> list[Segment]:
    """Every byte of the files, once, in the order of their names."""
    return [
        Segment(checkpoint / name, file.size, start, min(file.segment, file.size - start), digest)
        for name, file in sorted(files.items())
        for start, digest in zip(range(0, file.size, file.segment), file.digests, strict=True)
    ]


def segment_fault(segment: Segment) -> str | None:
    """What is wrong with a segment, as a sentence; the same one for all segments of a file that is missing or cut."""
    path = segment.path
    try:
        size = path.stat().st_size
        if size != segment.file_size:
            return f"{path}: {size} bytes, {segment.file_size} were written: the file was truncated or overwritten"
        if digest_segment(path, segment.start, segment.length) != segment.digest:
            return f"{path}: content differs from the digest taken while it was written: at least one bit has changed"
    except FileNotFoundError:
        return f"{path}: missing"
    except (IsADirectoryError, NotADirectoryError):
        return f"{path}: not a file"
    except OSError as error:
        raise CheckpointUnreadable(f"{path}: {error.strerror}; it may be whole, so make it readable") from error
    return None


def faulty(some: Sequence[Segment], on_read: Callable[[int], None] = lambda _: None) -> list[tuple[Segment, str]]:
    """The segments that are not as they were written, each with its fault; `on_read` is told the bytes as they pass."""
    found = []
    with ThreadPoolExecutor() as pool:
        for segment, fault in zip(some, pool.map(segment_fault, some), strict=True):
            on_read(segment.length)
            if fault:
                found.append((segment, fault))
    return found


def verify_checkpoint(path: Path, on_read: Callable[[int], None] = lambda _: None) -> list[str]:
    """Read every byte of a checkpoint; return one sentence for each fault, none when all is well.

    `on_read` is told the bytes as they pass. Raises CheckpointUnreadable when the checkpoint may
    be good but this process cannot tell.
    """
    files, faults = contents(path)
    return distinct(fault for _, fault in faulty(segments(path, files), on_read)) + faults


def distinct(faults: Iterable[str]) -> list[str]:
    """Each sentence once, in the order of their first."""
    return list(dict.fromkeys(faults))


def share(some: Sequence[Segment], part: int, parts: int) -> list[Segment]:
    """The `part`-th of `parts` shares of about equal size, each of neighbours."""
    return list(some[part * len(some) // parts : (part + 1) * len(some) // parts])
