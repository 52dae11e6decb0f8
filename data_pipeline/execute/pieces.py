"""How the corpus is divided among tasks: runs of pieces, in order. The result does not depend on it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_pipeline.config import PrepareConfig
from data_pipeline.execute.job import Job
from data_pipeline.execute.stages.scan import SourceFile, source_files
from data_pipeline.files import sha256_of
from data_pipeline.read import Place, expand, is_local, shown

_LARGEST, _SMALLEST, _TASKS = 2**26, 2**22, 64


@dataclass(frozen=True)
class Piece:
    """A file or a part of one."""

    file: int
    """Number of the file in the corpus."""
    path: str
    source: int
    """Number of the source in the configuration."""
    start: Place
    end: int | None
    """Byte at which the next piece begins; None: read to the end."""
    size: int
    """Bytes on disk."""
    stamp: tuple[int, int]
    """Size and time of change of the whole file when it was scanned."""

    @property
    def name(self) -> str:
        """The path as documents name it: without what is secret in a URL."""
        return shown(self.path)


def groups(job: Job) -> list[list[Piece]]:
    """The pieces of each task. Deterministic; cut where a task would hold more than execution.bytes_per_task."""
    return job.once(_groups)


def _groups(job: Job) -> list[list[Piece]]:
    files = source_files(job)
    limit = job.config.execution.bytes_per_task or _fitting(sum(file.size for file in files))
    found: list[list[Piece]] = [[]]
    room = limit
    for number, file in enumerate(files):
        for piece in _cut(number, file, limit):
            if found[-1] and piece.size > room:
                found.append([])
                room = limit
            found[-1].append(piece)
            room -= piece.size
    return found


def spec_of(job: Job, pieces: list[Piece], files: list[SourceFile]) -> list[dict[str, Any]]:
    """What the documents of some pieces depend on, as JSON."""
    return [
        {
            "path": piece.path,
            "source": job.config.sources[piece.source].model_dump(mode="json", exclude={"files"}),
            "part": [piece.start, piece.end],
            "file": [files[piece.file].size, files[piece.file].sha256],
        }
        for piece in pieces
    ]


def cleaning_spec(config: PrepareConfig) -> dict[str, Any]:
    """What happens to each document by itself, as JSON; with what the settings point at: files, functions."""
    return {
        **config.model_dump(mode="json", include={"clean", "decontaminate", "validation_fraction", "split_seed"}),
        "outside": [step.fingerprint() for step in config.clean],
        "evaluation": _evaluation(config),
    }


def _evaluation(config: PrepareConfig) -> list[str]:
    if config.decontaminate is None:
        return []
    return [sha256_of(Path(path)) if is_local(path) else shown(path) for path in expand(config.decontaminate.files)]


def _fitting(total: int) -> int:
    """Small enough for many workers, large enough for the cost of a task not to count."""
    return min(_LARGEST, max(_SMALLEST, total // _TASKS))


def _cut(number: int, file: SourceFile, limit: int) -> list[Piece]:
    places = [Place()]
    for cut in map(Place._make, file.cuts.tolist()):
        if cut.offset - places[-1].offset >= limit:
            places.append(cut)
    ends = [*(place.offset for place in places[1:]), file.size]
    return [
        Piece(
            number,
            file.path,
            file.source,
            place,
            None if end == file.size else end,
            end - place.offset,
            (file.size, file.changed),
        )
        for place, end in zip(places, ends, strict=True)
    ]
