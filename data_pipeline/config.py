"""What `megamodel data prepare` is told: the only schema of configs/data/*.yaml."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveInt, model_validator

from data_pipeline.clean import CleaningStep
from data_pipeline.dedup.settings import Decontaminate, Deduplicate
from data_pipeline.read.settings import Source
from data_pipeline.settings import Location, Settings
from data_pipeline.shards import TOKENS_PER_SHARD
from data_pipeline.tokenizer.settings import TokenizerSettings


class Execution(Settings):
    """How the work is done. Nothing here changes a byte of the result."""

    driver: Literal["local", "ray"] = "local"
    """`local`: processes on this machine; `ray`: core tasks on a Ray cluster. Slurm: `--cluster FILE`."""
    workers: PositiveInt | None = None
    """Processes or tasks at once; unset: one a core of this machine, or what the Ray cluster has."""
    ray_address: str | None = None
    """Address of a Ray cluster, such as `auto`; unset: Ray is started on this machine."""
    memory_per_worker: Annotated[int, Field(ge=2**20)] = 2**30
    """Bytes a worker may hold, at most, while it looks for duplicates, beside the 130 MB of any worker. The less, the
    more tasks there are."""
    bytes_per_task: PositiveInt | None = None
    """Bytes of source files in one task, about; unset: a 64th of the corpus, 4 to 64 MiB. A compressed file is
    in one task."""

    @model_validator(mode="after")
    def _address_is_for_ray(self) -> "Execution":
        if self.ray_address is not None and self.driver != "ray":
            raise ValueError("ray_address belongs to driver=ray, but that is local; remove this or change that")
        return self


def _named(path: Path) -> Path:
    """Work folder and report get names from that of `out`."""
    try:
        name = path.resolve().name
    except RuntimeError:
        raise ValueError("is a link that leads to itself; name a folder") from None
    if not name:
        raise ValueError("is the root of the file system; name a folder in it")
    return path


class PrepareConfig(Settings):
    """From raw text to the shard sets OUT/train and OUT/validation and the tokenizer OUT/tokenizer."""

    out: Annotated[Location, AfterValidator(_named)]
    """Folder to make. It appears whole, when everything in it is done."""
    sources: Annotated[list[Source], Field(min_length=1)]
    """The corpus: `kind: files` or `kind: dataset`, in the order in which their documents come."""
    clean: tuple[CleaningStep, ...] = ()
    """Cleaning steps, in the order written; none: the text stays as it is."""
    decontaminate: Decontaminate | None = None
    """Evaluation data that must not be in the corpus; unset: none."""
    deduplicate: Deduplicate | None = None
    """Drop duplicates; unset: they stay."""
    tokenizer: TokenizerSettings
    """The tokenizer: `kind: train` or `kind: load`. Either way it is also saved in OUT/tokenizer."""
    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Share of the documents kept for validation; 0: no validation set."""
    split_seed: NonNegativeInt = 1234
    """With each document's id, decides on which side of the split it falls."""
    tokens_per_shard: PositiveInt = TOKENS_PER_SHARD
    """A shard is closed when the next document would not fit."""
    max_broken_fraction: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Share of the records that may be unreadable: they are kept aside, in OUT/broken.jsonl. The run ends when this and
    max_broken_records are both exceeded."""
    max_broken_records: NonNegativeInt = 100
    """So many records may be unreadable, however small the corpus."""
    execution: Execution = Execution()
    """Where and how the work is done; without influence on the result."""

    @model_validator(mode="after")
    def _languages_are_known(self) -> "PrepareConfig":
        """A step for some languages would silently do nothing where no language is ever known."""
        if any(source.language for source in self.sources):
            return self
        for number, step in enumerate(self.clean):
            if step.step == "language":
                break
            if step.languages:
                raise ValueError(
                    f"clean.{number} is for documents in {', '.join(step.languages)}, but no language is known there: "
                    "put a `step: language` above it, or give the sources their `language`"
                )
        return self
