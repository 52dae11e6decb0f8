"""The run's mixtures, opened as its settings say. Needs no torch, so that tools which only look can use it."""

from collections.abc import Sequence

from data_pipeline.mixture import Mixture, Segment
from data_pipeline.mixture.fim import FillInTheMiddle
from data_pipeline.mixture.mixture import open_sets
from data_pipeline.mixture.packed import PackedWindows
from data_pipeline.mixture.segments import Weight
from data_pipeline.mixture.weighting import by_documents, by_temperature
from data_pipeline.mixture.windows import Windows
from data_pipeline.shards import ShardSet
from data_pipeline.shards.manifest import as_prefix
from data_pipeline.tokenizer import Tokenizer
from launcher.config import DataConfig, RunConfig, SourceConfig, TemperatureWeights, Weighting
from launcher.errors import UserError


def training_mixture(config: RunConfig, tokenizer_digest: str | None = None) -> Mixture:
    """The mixture that the run trains on, with all its segments, and nothing left out yet (see `leave_out`)."""
    sets = open_sets([source.path for source in config.data.sources], tokenizer_digest)
    base, *later = segments(config, sets)
    cut = PackedWindows if config.data.packing == "best_fit" else Windows
    return Mixture(list(zip(sets, base.weights, strict=True)), config.train.seq_len, config.seed, later, cut)


def fill_in_the_middle(config: RunConfig, tokenizer: Tokenizer) -> FillInTheMiddle | None:
    """What rearranges the run's documents. UserError when the tokenizer lacks one of its tokens."""
    fim = config.data.fim
    if fim is None:
        return None
    ids = {}
    for setting, token in {"prefix": fim.prefix, "middle": fim.middle, "suffix": fim.suffix}.items():
        if token not in tokenizer.special_tokens:
            known = ", ".join(list(tokenizer.special_tokens)[:8]) or "none"
            raise UserError(
                f"data.fim.{setting}: {token!r} is no special token of {config.data.tokenizer}, whose special tokens "
                f"are: {known}; name those it has for this, or train a tokenizer with `special_tokens` that has them"
            )
        ids[setting] = tokenizer.special_tokens[token]
    if len({*ids.values(), tokenizer.eos_id}) < 4:
        raise UserError("data.fim: prefix, middle, suffix and the end-of-document token must be four different tokens")
    return FillInTheMiddle(fim.rate, fim.spm_rate, **ids, eos_id=tokenizer.eos_id, seed=config.seed)


def fim_sources(config: RunConfig, mixture: Mixture) -> list[int]:
    """Numbers, in the mixture, of the sources whose documents are rearranged. UserError for an unknown name."""
    data = config.data
    if data.fim is None:
        return []
    if not data.fim.sources:
        return list(range(len(mixture.sources)))
    named = [data.sources[source_named(data.sources, key, "data.fim.sources")] for key in data.fim.sources]
    prefixes = {as_prefix(source.path) for source in named}
    return [number for number, shards in enumerate(mixture.sources) if shards.prefix in prefixes]


def validation_mixture(config: RunConfig, tokenizer_digest: str | None = None) -> Mixture:
    """The mixture that the run validates on."""
    pairs = [(source.path, source.weight) for source in config.data.validation]
    return Mixture.open(pairs, config.train.seq_len, config.seed, tokenizer_digest)


def segments(config: RunConfig, sets: Sequence[ShardSet]) -> list[Segment]:
    """The sources' own weights, then each segment's, as shares of the tokens. `sets` are the opened data.sources."""
    data = config.data
    own = [source.weight for source in data.sources]
    found = [Segment(0, _shares(data.weighting, own, sets))]
    for number, segment in enumerate(data.segments):
        weights = own if segment.weights is None else named_weights(data, number)
        shares = _shares(segment.weighting or data.weighting, weights, sets)
        found.append(Segment(first_sample(segment.from_token, config.train.seq_len), shares))
    return found


def first_sample(token: int, seq_len: int) -> int:
    """The first sequence that begins at or after this token of the run."""
    return -(-token // seq_len)


def _shares(weighting: Weighting, weights: list[float], sets: Sequence[ShardSet]) -> Sequence[Weight]:
    if isinstance(weighting, TemperatureWeights):
        sizes = [shards.num_tokens if weighting.size == "tokens" else shards.num_documents for shards in sets]
        return by_temperature(weights, sizes, weighting.temperature)
    return by_documents(weights, sets) if weighting.kind == "documents" else weights


def named_weights(data: DataConfig, segment: int) -> list[float]:
    """The weights of a segment that names its sources, one for each of data.sources. UserError for an unknown name."""
    weights = [0.0] * len(data.sources)
    for key, weight in (data.segments[segment].weights or {}).items():
        weights[source_named(data.sources, key, f"data.segments.{segment}.weights")] = weight
    return weights


def source_named(sources: Sequence[SourceConfig], key: str, setting: str) -> int:
    """The number of the source with this name or path. UserError when there is none, or more than one."""
    for named in ([s.name for s in sources], [str(s.path) for s in sources], [s.path.name for s in sources]):
        found = [number for number, name in enumerate(named) if name == key]
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{setting}: {key!r} is {len(found)} of data.sources; give each a name of its own")
    raise UserError(f"{setting}: {key!r} is none of data.sources, which are: {', '.join(labels(sources))}")


def labels(sources: Sequence[SourceConfig]) -> list[str]:
    """What each source is called: its name, the last part of its path, or the path where that is not its alone."""
    short = [source.name or source.path.name for source in sources]
    return [name if short.count(name) == 1 else str(source.path) for name, source in zip(short, sources, strict=True)]


def mixture_labels(config: RunConfig, mixture: Mixture) -> list[str]:
    """What the sources of the training mixture are called, in the mixture's order."""
    sources = config.data.sources
    called = {as_prefix(source.path): label for source, label in zip(sources, labels(sources), strict=True)}
    return [called.get(shards.prefix, str(shards.prefix)) for shards in mixture.sources]
