"""What the samples of each step follow from: recorded in every checkpoint, and compared when the run goes on."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from data_pipeline.mixture import Mixture
from data_pipeline.mixture.blend import PERIOD, quotas
from data_pipeline.tokenizer import Tokenizer
from launcher.config import RunConfig
from launcher.mixtures import fim_sources

Segments = list[tuple[int, dict[str, int]]]
"""First sample of each segment, and the quota of each of its sources by digest, in the mixture's order."""


def data_order(config: RunConfig, mixture: Mixture, tokenizer: Tokenizer) -> dict[str, Any]:
    """Everything that the samples of a step follow from, and what their ids mean; a change of it is another run.

    Of the segments only those that have begun are part of what has been: see `past`.
    """
    order: dict[str, Any] = {
        "seed": config.seed,
        "seq_len": config.train.seq_len,
        "global_batch_size": config.train.global_batch_size,
        "tokenizer": tokenizer.digest,
        "segments": mixture_record(mixture),
    }
    if config.data.packing != "contiguous":
        order["packing"] = config.data.packing
    if config.data.fim is not None:
        order["fim"] = config.data.fim.model_dump(mode="json", exclude={"sources"})
        order["fim_sources"] = [mixture.sources[number].digest for number in fim_sources(config, mixture)]
    return order


def mixture_record(mixture: Mixture) -> list[Any]:
    """The segments for a checkpoint: [[first sample, [[digest, quota], ...]], ...]."""
    digests = [shards.digest for shards in mixture.sources]
    return [
        [first, [[digests[source], quota] for source, quota in some.items()]]
        for first, some in mixture.segments.quotas()
    ]


def past(order: Mapping[str, Any], samples: int) -> Segments:
    """The segments of a recorded order that began before this many samples.

    Raises KeyError, TypeError or ValueError for a record that is none. One written before there were segments has the
    weights of its only one as `sources`.
    """
    if "sources" in order:
        digests, weights = zip(*order["sources"], strict=True)
        return [(0, dict(zip(digests, quotas(weights), strict=True)))] if samples else []
    return [(first, dict(some)) for first, some in order["segments"] if first < samples]


def rearranged(order: Mapping[str, Any], samples: int) -> set[str]:
    """Digests of the sources that gave some of so many samples, rearranged for fill-in-the-middle."""
    read = {digest for _, some in past(order, samples) for digest in some}
    return read.intersection(order.get("fim_sources", read)) if "fim" in order else set()


def in_words(segments: Segments, seq_len: int, names: Mapping[str, str]) -> str:
    """Segments as people read them; `names` of the sources by digest, where they are known."""
    return "; ".join(
        f"from token {first * seq_len:,} on "
        + ", ".join(f"{names.get(digest) or _unknown(digest)} {_percent(quota)}" for digest, quota in some.items())
        for first, some in segments
    )


def _unknown(digest: str) -> str:
    """Most often the set was prepared again since, from other files or settings, in the same place."""
    return f"a set with other tokens (content sha256 {digest[:12]}...)"


def _percent(quota: int) -> str:
    return f"{float(Fraction(100 * quota, PERIOD)):.4g}%"
