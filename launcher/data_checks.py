"""The run's data: whether it is there, belongs together, and how often each part of it will be read."""

import contextlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

from data_pipeline.errors import DataError
from data_pipeline.mixture import Segment
from data_pipeline.mixture.blend import PERIOD
from data_pipeline.mixture.fim import SHORTEST_TEXT
from data_pipeline.mixture.mixture import alternate
from data_pipeline.mixture.pack_build import find_plan
from data_pipeline.mixture.segments import Weight
from data_pipeline.shards import ShardSet
from data_pipeline.tokenizer import Tokenizer
from launcher.config import RunConfig, SourceConfig, TokenWeights, stretch
from launcher.errors import UserError
from launcher.mixtures import fill_in_the_middle, first_sample, labels, segments, source_named
from launcher.problems import Problem, error, note

_Schedule = Mapping[int, Mapping[int, Weight]]
"""From each sample on at which the weights change: the positive ones by the number of their source."""


def data_problems(config: RunConfig) -> Iterator[Problem]:
    """The tokenizer and every shard set are there and belong together; segments and skipped parts make sense."""
    digest = None
    tokenizer = None
    try:
        tokenizer = Tokenizer.load(config.data.tokenizer)
        digest = tokenizer.digest
        if tokenizer.vocab_size > config.model.vocab_size:
            message = f"{config.model.vocab_size} is less than the tokenizer's {tokenizer.vocab_size} tokens; raise it"
            yield error("model.vocab_size", message)
    except DataError as problem:
        yield error("data.tokenizer", str(problem))
    named = [*_segments(config), *_names(config)]
    yield from named
    sources = config.data.sources
    yield from (opened := _Opened(config, "data.sources", sources)).problems(digest)
    yield from _skip(config, opened.sets)
    yield from _boundaries(config, opened)
    if tokenizer is not None:
        yield from _fim(config, tokenizer)
    if not any(problem.severity == "error" for problem in named):
        yield from _reading(config, opened)
    yield from (validation := _Opened(config, "data.validation", config.data.validation)).problems(digest)
    yield from _boundaries(config, validation)
    yield from _validation(config, validation)


def _segments(config: RunConfig) -> Iterator[Problem]:
    """Segments follow each other, and each draws from something."""
    data, seq_len = config.data, config.train.seq_len
    tokens = config.train.steps * config.train.global_batch_size * seq_len
    for number, (one, other) in enumerate(pairwise(data.segments), start=1):
        setting = f"data.segments.{number}.from_token"
        if other.from_token <= one.from_token:
            yield error(
                setting, f"{other.from_token} is not after the segment before, which begins at {one.from_token}"
            )
        elif first_sample(other.from_token, seq_len) == first_sample(one.from_token, seq_len):
            message = f"{other.from_token} begins with the same sequence of {seq_len} tokens as the segment before"
            yield error(setting, f"{message}, which so has none; remove one of them")
    for number, segment in enumerate(data.segments):
        if segment.from_token >= tokens:
            message = f"{segment.from_token:,} is not before the run's end of {tokens:,} tokens: it never comes to this"
            yield note(f"data.segments.{number}.from_token", message)
        if segment.weights is not None and not any(segment.weights.values()):
            yield error(f"data.segments.{number}.weights", "no source has a weight above 0; name at least one that has")


def _names(config: RunConfig) -> Iterator[Problem]:
    """Names of sources are one source's each."""
    sources = config.data.sources
    named: dict[str, Collection[str]] = {"data.skip.numbers": config.data.skip.numbers}
    named |= {f"data.segments.{n}.weights": some.weights or {} for n, some in enumerate(config.data.segments)}
    for setting, keys in named.items():
        seen: dict[int, str] = {}
        for key in keys:
            try:
                source = source_named(sources, key, setting)
            except UserError as problem:
                yield error(setting, str(problem).removeprefix(f"{setting}: "))
                continue
            if seen.setdefault(source, key) != key:
                yield error(setting, f"{key!r} and {seen[source]!r} are the same source; keep one of them")
    called = [source.name for source in sources if source.name is not None]
    for name in sorted({name for name in called if called.count(name) > 1}):
        number = [source.name for source in sources].index(name)
        yield error(f"data.sources.{number}.name", f"{name!r} is the name of {called.count(name)} sources; change one")


def _skip(config: RunConfig, sets: Sequence[ShardSet | None]) -> Iterator[Problem]:
    """What is left out exists, as far as that can be told without a look at every document."""
    skip, sources = config.data.skip, config.data.sources
    if skip.documents_file is not None and not skip.documents_file.is_file():
        yield error("data.skip.documents_file", f"there is no file {skip.documents_file}")
    for index, steps in enumerate(map(stretch, skip.steps)):
        if steps.start < 1 or steps.stop - 1 > config.train.steps:
            message = f"the run's steps are 1 to {config.train.steps} (train.steps)"
            yield note(f"data.skip.steps.{index}", message)
    for key, numbers in skip.numbers.items():
        try:
            shards = sets[source_named(sources, key, "")]
        except UserError:
            continue  # told with the names
        last = max((stretch(some).stop - 1 for some in numbers), default=-1)
        if shards is not None and last >= shards.num_documents:
            message = f"there is no document {last} in {key}, whose documents are 0 to {shards.num_documents - 1}"
            yield error("data.skip.numbers", message)


def _boundaries(config: RunConfig, opened: "_Opened") -> Iterator[Problem]:
    """What takes documents apart can see where they end; what packs them together had better take them apart."""
    apart = config.data.separate_documents
    packed = config.data.packing == "best_fit" and opened.setting == "data.sources"  # validation never is
    if packed and not apart:
        message = "best_fit puts unrelated documents side by side; data.separate_documents=true keeps them apart"
        yield note("data.packing", message)
    for number, shards in enumerate(opened.sets):
        if shards is None or not (packed or apart):
            continue
        name, unended = f"{opened.setting}.{number}.path", shards.num_documents - shards.manifest.num_eos_tokens
        if unended:
            message = f"{unended:,} of the {shards.num_documents:,} documents do not end in the end-of-document token"
            needs = "data.packing=best_fit" if packed else "data.separate_documents"
            yield error(name, f"{message}, by which {needs} tells them apart; set it back, or tokenize the set again")
        elif packed:
            yield from _plan(name, shards, config.train.seq_len)


def _plan(name: str, shards: ShardSet, seq_len: int) -> Iterator[Problem]:
    """Whether it is known how a set is packed."""
    try:
        if find_plan(shards, seq_len) is None:
            message = f"the first start plans how to pack its {shards.num_documents:,} documents, some million a"
            yield note(
                name, f"{message} second; `megamodel data inspect {shards.prefix} --seq-len {seq_len}` does it now"
            )
    except DataError as problem:
        yield error(name, str(problem))


def _fim(config: RunConfig, tokenizer: Tokenizer) -> Iterator[Problem]:
    """Its tokens exist, and a sequence has room for them."""
    try:
        fill_in_the_middle(config, tokenizer)
        for key in config.data.fim.sources if config.data.fim else []:
            source_named(config.data.sources, key, "data.fim.sources")
    except UserError as problem:
        setting, _, message = str(problem).partition(": ")
        yield error(setting, message)
    if config.data.fim is not None and config.train.seq_len < SHORTEST_TEXT:
        message = f"sequences of {config.train.seq_len} tokens are too short for it: {SHORTEST_TEXT} or more"
        yield error("data.fim", message)


class _Opened:
    """The shard sets of a setting, as far as they can be opened, and what is wrong with them."""

    def __init__(self, config: RunConfig, setting: str, sources: Sequence[SourceConfig]) -> None:
        self.config, self.setting, self.sources = config, setting, sources
        self.sets: list[ShardSet | None] = []
        self._faults: list[str | None] = []
        for source in sources:
            try:
                self.sets.append(ShardSet.open(source.path))
                self._faults.append(None)
            except DataError as problem:
                self.sets.append(None)
                self._faults.append(str(problem))

    def windows(self, number: int) -> int:
        """Sequences in one epoch of a set, about as many where no plan says how it is packed; 0: it was not opened."""
        shards, seq_len = self.sets[number], self.config.train.seq_len
        if shards is None:
            return 0
        if self.setting == "data.sources" and self.config.data.packing == "best_fit":
            with contextlib.suppress(DataError):
                if plan := find_plan(shards, seq_len):
                    return plan.plan.best_fit.windows
            return -(-shards.num_tokens // (seq_len + 1))
        return max(0, (shards.num_tokens - 1) // seq_len)

    def problems(self, tokenizer_digest: str | None) -> Iterator[Problem]:
        """What is wrong with each set alone, and which hold the same."""
        names: dict[str, str] = {}
        for number, (source, shards) in enumerate(zip(self.sources, self.sets, strict=True)):
            name = f"{self.setting}.{number}.path"
            if shards is None:
                yield error(name, self._faults[number] or "")
                continue
            yield from self._files(name, number, shards)
            if names.setdefault(shards.digest, name) != name:
                message = f"{source.path} holds the same tokens as {names[shards.digest]}; keep one"
                yield error(name, f"{message}, with the sum of weights")
            if tokenizer_digest is not None and shards.manifest.tokenizer_sha256 != tokenizer_digest:
                yield error(name, _other_tokenizer(shards, source.path, self.config.data.tokenizer))
            if not self.windows(number):
                message = f"{source.path} has {shards.num_tokens:,} tokens, fewer than one sequence of"
                yield error(name, f"{message} {self.config.train.seq_len} + 1; add data")

    def _files(self, name: str, number: int, shards: ShardSet) -> Iterator[Problem]:
        """Its files are there, unless the last segment has dropped it."""
        try:
            shards.check_sizes()
        except DataError as problem:
            if self.setting == "data.sources" and _dropped(self.config, number):
                yield note(
                    name, f"{problem} The last of data.segments does not draw from it, but what comes before may"
                )
            else:
                yield error(name, str(problem))


def _dropped(config: RunConfig, number: int) -> bool:
    """True for a source that the last segment does not name."""
    last = config.data.segments[-1].weights if config.data.segments else None
    if last is None:
        return False
    try:
        return all(source_named(config.data.sources, key, "") != number or not weight for key, weight in last.items())
    except UserError:
        return False


def _reading(config: RunConfig, opened: _Opened) -> Iterator[Problem]:
    """How often the run goes through each source, over all segments."""
    kinds = [config.data.weighting, *(s.weighting for s in config.data.segments if s.weighting is not None)]
    sets = [shards for shards in opened.sets if shards is not None]
    if len(sets) < len(opened.sets) and any(not isinstance(kind, TokenWeights) for kind in kinds):
        return  # the weights follow from all of them
    found = segments(config, sets)
    schedule = _schedule(found)
    if not all(schedule.values()):
        yield error("data.sources", "no source has a weight above 0; give one, or let data.segments begin at token 0")
        return
    yield from _tiny_weights(config, schedule)
    samples = config.train.steps * config.train.global_batch_size
    counts = _counts(opened, schedule, samples)
    for number, (shards, label) in enumerate(zip(opened.sets, labels(config.data.sources), strict=True)):
        name = f"data.sources.{number}.path"
        if not any(number in some for some in schedule.values()):
            yield note(name, f"{label} has no weight in any segment: this run does not read it")
        elif shards is not None and opened.windows(number):
            times = _times(counts.get(number, 0) / opened.windows(number))
            yield note(name, f"{config.data.sources[number].path} has {shards.num_tokens:,} tokens; {times}")


def _schedule(found: Sequence[Segment]) -> _Schedule:
    return {s.first: {number: weight for number, weight in enumerate(s.weights) if weight > 0} for s in found}


def _counts(opened: _Opened, schedule: _Schedule, samples: int) -> dict[int, int]:
    """How many of the first samples each source gives that is drawn at all, as the run's mixture counts them."""
    order, turns = alternate([shards.digest if shards else "" for shards in opened.sets], schedule)
    return dict(zip(order, turns.counts(samples), strict=True))


def _validation(config: RunConfig, opened: _Opened) -> Iterator[Problem]:
    """How much of each set a validation reads."""
    sources = config.data.validation
    if not sources:
        return
    (weights,) = _schedule([Segment(0, [source.weight for source in sources])]).values()
    if not weights:
        yield error("data.validation", "no set has a weight above 0; give one")
        return
    counts = _counts(opened, {0: weights}, config.train.validation_sequences)
    for number, shards in enumerate(opened.sets):
        if shards is not None and opened.windows(number):
            share = min(counts.get(number, 0) / opened.windows(number), 1)
            message = (
                f"{sources[number].path} has {shards.num_tokens:,} tokens; each validation reads {share:.1%} of them"
            )
            yield note(f"data.validation.{number}.path", message)


def _tiny_weights(config: RunConfig, schedule: _Schedule) -> Iterator[Problem]:
    """Weights below the smallest share that a mixture can give."""
    firsts = [first_sample(segment.from_token, config.train.seq_len) for segment in config.data.segments]
    for first, weights in schedule.items():
        total = sum(Fraction(weight) for weight in weights.values())
        for number, weight in weights.items():
            if Fraction(weight) * PERIOD < total:
                place = f"data.segments.{firsts.index(first)}.weights" if first in firsts else ""
                share = float(Fraction(weight) / total)
                message = (
                    f"a share of {share:g} is less than one in {PERIOD:,} samples; the source gives about that many"
                )
                label = labels(config.data.sources)[number]
                yield note(place or f"data.sources.{number}.weight", f"{label}: {message}" if place else message)


def _times(epochs: float) -> str:
    return f"this run reads {epochs:.1%} of them" if epochs <= 1 else f"this run reads them {epochs:.2f} times (epochs)"


def _other_tokenizer(shards: ShardSet, path: Path, tokenizer: Path) -> str:
    theirs = shards.manifest.tokenizer_sha256[:12]
    return (
        f"{path} was made with another tokenizer (digest {theirs}...) than {tokenizer}; "
        "tokenize it again or set data.tokenizer to the one that made it"
    )
