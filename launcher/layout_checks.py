"""Which arrangements of ranks can train which model: one table of rules, and the nearest arrangements that keep them.

Everything here is arithmetic on the numbers of a `Case`. An alternative is named only when it breaks no other rule.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from launcher.config import RunConfig
from launcher.problems import Problem, error

AXES = ("pp", "dp_replicate", "dp_shard", "cp", "tp")


@dataclass(frozen=True)
class Case:
    """The numbers that decide whether a layout is legal."""

    engine: str
    ranks: int | None
    """Processes; None where nothing says how many there will be."""
    pp: int
    dp_replicate: int
    dp_shard: int | None
    cp: int
    tp: int
    pp_schedule: str
    pp_stages_per_rank: int
    cp_method: str
    heads: int
    kv_heads: int
    intermediate_size: int
    layers: int
    longest: int | None
    """Positions that the model has learned; None: it takes any number."""
    seq_len: int
    global_batch_size: int
    micro_batch_size: int

    @classmethod
    def of(cls, config: RunConfig, ranks: int | None) -> "Case":
        """The numbers of a run on so many ranks."""
        model, parallel, train = config.model, config.parallel, config.train
        return cls(
            engine=config.engine.name,
            ranks=ranks,
            pp=parallel.pp,
            dp_replicate=parallel.dp_replicate,
            dp_shard=parallel.dp_shard,
            cp=parallel.cp,
            tp=parallel.tp,
            pp_schedule=parallel.pp_schedule,
            pp_stages_per_rank=parallel.pp_stages_per_rank,
            cp_method=parallel.cp_method,
            heads=model.num_attention_heads,
            kv_heads=model.kv_heads,
            intermediate_size=model.intermediate_size,
            layers=model.num_hidden_layers,
            longest=model.max_position_embeddings if model.position_embedding == "learned" else None,
            seq_len=train.seq_len,
            global_batch_size=train.global_batch_size,
            micro_batch_size=train.micro_batch_size,
        )

    @property
    def sizes(self) -> tuple[int, ...]:
        """Ranks on each of AXES; dp_shard, when it is unset, is what the other axes leave; 1 if ranks are amiss."""
        ranks = self.ranks if self.takes_all_ranks else None
        if self.engine == "fsdp":
            shard = self.dp_shard or (ranks or self.besides_shard) // self.besides_shard
            return self.pp, self.dp_replicate, shard, self.cp, self.tp
        if self.engine == "ddp":
            return 1, ranks or self.dp_replicate, 1, 1, 1
        return 1, 1, (self.ranks or 1) if self.engine == "deepspeed" else 1, 1, 1

    @property
    def besides_shard(self) -> int:
        """Ranks on all axes but dp_shard."""
        return self.pp * self.dp_replicate * self.cp * self.tp

    @property
    def takes_all_ranks(self) -> bool:
        """Whether the axes make up the ranks; True where nothing says how many there will be."""
        if self.ranks is None or self.engine in ("single", "deepspeed"):
            return True
        if self.engine == "ddp":
            return self.dp_replicate in (1, self.ranks)
        if self.dp_shard is None:
            return self.ranks % self.besides_shard == 0
        return self.besides_shard * self.dp_shard == self.ranks

    @property
    def data_ranks_known(self) -> bool:
        """Whether `data_ranks` is their number, and not the least that it can be."""
        return self.engine != "fsdp" or self.dp_shard is not None or (self.ranks is not None and self.takes_all_ranks)

    @property
    def data_ranks(self) -> int:
        """Groups of ranks that read different samples."""
        return self.sizes[1] * self.sizes[2]

    @property
    def stages(self) -> int:
        """Consecutive parts that the blocks are cut into."""
        return self.pp * {"1f1b": 1, "interleaved_1f1b": self.pp_stages_per_rank, "zbv": 2}[self.pp_schedule]

    @property
    def micro_batches(self) -> int:
        """Micro-batches of one data rank in a step."""
        return self.global_batch_size // (self.data_ranks * self.micro_batch_size)


@dataclass(frozen=True)
class Rule:
    """What must hold, what to say when it does not, and which of a case's numbers to change then."""

    setting: Callable[[Case], str]
    holds: Callable[[Case], bool]
    says: Callable[[Case], str]
    vary: tuple[str, ...] = ()


def layout_problems(config: RunConfig, ranks: int | None) -> Iterator[Problem]:
    """An error for each rule that a run on so many ranks breaks; see `problems_of`."""
    return problems_of(Case.of(config, ranks))


def nearest_ranks(config: RunConfig, ranks: int) -> int | None:
    """So many ranks if they fit, else the next fewer that do, else the next more; None if no number does."""
    counts = (*range(ranks, 0, -1), *range(ranks + 1, ranks + _MANY))
    return next((n for n in counts if all(rule.holds(Case.of(config, n)) for rule in RULES)), None)


_MANY = 4096
"""How many ranks more are tried."""


def problems_of(case: Case) -> Iterator[Problem]:
    """An error for each broken rule, in their order, with the nearest numbers that make the case legal.

    Where no single number does, they are the nearest that keep this rule and break no other; where none does that
    either, the nearest that keep this rule, and it says that something else must change with them.
    """
    broken = [rule for rule in RULES if not rule.holds(case)]
    for rule in broken:
        kept = tuple(other for other in RULES if other is rule or other not in broken)
        near = _alternatives(case, rule.vary, RULES) or _alternatives(case, rule.vary, kept)
        hint = f"; the nearest that fit: {near}" if near else ""
        if not near and (alone := _alternatives(case, rule.vary, (rule,))):
            hint = f"; the nearest that this rule allows: {alone}, which need other ranks or another batch"
        yield error(rule.setting(case), rule.says(case) + hint)


def _alternatives(case: Case, fields: tuple[str, ...], rules: "tuple[Rule, ...]") -> str:
    """Each field's next smaller and next larger values that keep the rules: "tp 2 or 4; ranks 8"."""
    found = []
    for field in fields:
        fits = (_first_that_fits(case, field, values, rules) for values in _around(case, field))
        if values := [str(value) for value in fits if value is not None]:
            found.append(f"{field} {' or '.join(values)}")
    return "; ".join(found)


_FAR = 256
"""How many steps beyond twice a number are still called near it."""


def _around(case: Case, field: str) -> tuple[range, range]:
    """The values to try below the field's own, and above it; none for an axis that is not in use."""
    current, empty = getattr(case, field), range(0)
    if current is None or (current == 1 and field in ("pp", "dp_replicate", "cp", "tp")):
        return empty, empty
    unit = {"global_batch_size": case.data_ranks * case.micro_batch_size, "seq_len": case.cp * case.tp}.get(field, 1)
    above = (current // unit + 1) * unit
    return range((current - 1) // unit * unit, 0, -unit), range(above, 2 * above + _FAR * unit, unit)


def _first_that_fits(case: Case, field: str, values: range, rules: "tuple[Rule, ...]") -> int | None:
    def fits(value: int) -> bool:
        change: dict[str, Any] = {field: value}
        changed = replace(case, **change)
        return all(rule.holds(changed) for rule in rules)

    return next((value for value in values if fits(value)), None)


def _only_fsdp(axis: str) -> Rule:
    return Rule(
        setting=lambda _: f"parallel.{axis}",
        holds=lambda case: case.engine == "fsdp" or getattr(case, axis) == 1,
        says=lambda case: f"engine.name={case.engine} does not cut along {axis}; use engine.name=fsdp, or {axis}=1",
    )


_PIPELINE = Rule(
    setting=lambda _: "parallel.pp",
    holds=lambda case: case.engine == "fsdp" or case.pp == 1,
    says=lambda case: (
        "ZeRO and a pipeline do not go together: every micro-batch of every stage would gather parameters and reduce "
        "gradients anew; use engine.name=fsdp, which shards as ZeRO-3 does and reduces once a step, or pp=1"
        if case.engine == "deepspeed"
        else f"engine.name={case.engine} does not cut along pp; use engine.name=fsdp, or pp=1"
    ),
)

_ONE_PROCESS = Rule(
    setting=lambda _: "engine.name",
    holds=lambda case: case.engine != "single" or (case.ranks or 1) == 1,
    says=lambda case: f"single is one process, but there are {case.ranks} ranks; use fsdp or ddp, or one rank",
)

_REPLICAS = Rule(
    setting=lambda _: "parallel.dp_replicate",
    holds=lambda case: case.engine in ("ddp", "fsdp") or case.dp_replicate == 1,
    says=lambda case: (
        f"engine.name={case.engine} is one copy of the model; use ddp or fsdp, or remove dp_replicate"
        if case.engine == "single"
        else "engine.name=deepspeed shards over all ranks; use engine.name=fsdp for replicas of shards, or remove it"
    ),
)

_SHARDS = Rule(
    setting=lambda _: "parallel.dp_shard",
    holds=lambda case: case.engine == "fsdp" or (case.dp_shard or 1) == 1,
    says=lambda case: (
        "engine.name=deepspeed shards over all ranks, as engine.zero_stage says; remove dp_shard"
        if case.engine == "deepspeed"
        else f"engine.name={case.engine} shards nothing; use engine.name=fsdp or remove dp_shard"
    ),
)


def _product(case: Case) -> str:
    named = ("dp_replicate",) if case.engine == "ddp" else AXES
    sizes = [(axis, getattr(case, axis) or 1) for axis in named]
    written = " x ".join(f"{axis} {size}" for axis, size in sizes if size > 1)
    total = case.dp_replicate if case.engine == "ddp" else case.besides_shard * (case.dp_shard or 1)
    if case.engine == "fsdp" and case.dp_shard is None and total < (case.ranks or 0):
        return f"{written} = {total} ranks do not divide the {case.ranks} ranks"
    there = "there is 1 rank" if case.ranks == 1 else f"there are {case.ranks} ranks"
    return f"{written} = {total} ranks, but {there}"


_RANKS = Rule(
    setting=lambda case: (
        "parallel." + next((axis for axis in ("dp_shard", *AXES) if (getattr(case, axis) or 1) > 1), "dp_shard")
    ),
    holds=lambda case: case.takes_all_ranks,
    says=_product,
    vary=(*AXES, "ranks"),
)


def _data_ranks_called(case: Case) -> str:
    return "ranks" if case.data_ranks == case.ranks else "data parallel ranks"


_BATCH = Rule(
    setting=lambda _: "train.global_batch_size",
    holds=lambda case: case.global_batch_size % (case.data_ranks * case.micro_batch_size) == 0,
    says=lambda case: (
        f"{case.global_batch_size} sequences do not divide over "
        + (f"{case.data_ranks} {_data_ranks_called(case)} x " if case.ranks or case.data_ranks > 1 else "")
        + f"micro_batch_size {case.micro_batch_size}"
    ),
    vary=("global_batch_size", "ranks", "micro_batch_size"),
)


def _not_cut_by(case: Case) -> dict[str, int]:
    """What tp would have to divide, and does not."""
    names = {"num_attention_heads": case.heads, "num_key_value_heads": case.kv_heads}
    names["intermediate_size"] = case.intermediate_size
    return {name: size for name, size in names.items() if case.engine == "fsdp" and size % case.tp}


_HEADS_AND_FEATURES = Rule(
    setting=lambda _: "parallel.tp",
    holds=lambda case: not _not_cut_by(case),
    says=lambda case: (
        f"{case.tp} does not divide " + " and ".join(f"model.{name}={size}" for name, size in _not_cut_by(case).items())
    ),
    vary=("tp",),
)


def _tokens_divide(case: Case) -> bool:
    if case.engine != "fsdp":
        return True
    pieces = 2 * case.cp if case.cp > 1 and case.cp_method == "ring" else case.cp
    return case.seq_len % pieces == 0 and case.seq_len // case.cp % case.tp == 0


_TOKENS = Rule(
    setting=lambda _: "train.seq_len",
    holds=_tokens_divide,
    says=lambda case: (
        f"{case.seq_len} tokens do not divide among "
        + " x ".join(f"{axis} {size}" for axis, size in (("cp", case.cp), ("tp", case.tp)) if size > 1)
        + (f", of which the ring cuts {2 * case.cp} pieces" if case.cp > 1 and case.cp_method == "ring" else "")
    ),
    vary=("seq_len", "cp", "tp"),
)

_POSITIONS = Rule(
    setting=lambda _: "train.seq_len",
    holds=lambda case: case.longest is None or case.seq_len <= case.longest,
    says=lambda case: (
        f"{case.seq_len} tokens, but the model has learned positions for model.max_position_embeddings={case.longest}"
    ),
    vary=("seq_len",),
)

_ULYSSES = Rule(
    setting=lambda _: "parallel.cp",
    holds=lambda case: (
        case.engine != "fsdp"
        or case.cp_method == "ring"
        or case.heads % case.tp != 0
        or case.heads // case.tp % case.cp == 0
    ),
    says=lambda case: (
        f"ulysses deals out heads, and {case.cp} does not divide "
        f"model.num_attention_heads={case.heads}"
        + (f" / tp {case.tp}" if case.tp > 1 else "")
        + "; cp_method=ring needs no heads"
    ),
    vary=("cp", "tp"),
)

_STAGES_PER_RANK = Rule(
    setting=lambda _: "parallel.pp_stages_per_rank",
    holds=lambda case: case.pp == 1 or case.pp_schedule != "interleaved_1f1b" or case.pp_stages_per_rank > 1,
    says=lambda _: "interleaved_1f1b needs several stages on each rank; with one it is pp_schedule=1f1b",
    vary=("pp_stages_per_rank",),
)

_LAYERS = Rule(
    setting=lambda _: "parallel.pp",
    holds=lambda case: case.engine != "fsdp" or case.pp == 1 or case.layers >= case.stages,
    says=lambda case: (
        f"model.num_hidden_layers={case.layers} are fewer than the {case.stages} stages of pp {case.pp} "
        f"with pp_schedule={case.pp_schedule}"
    ),
    vary=("pp", "pp_stages_per_rank"),
)


def _fills_pipeline(case: Case) -> bool:
    """As the schedules of torch.distributed.pipelining ask."""
    if case.engine != "fsdp" or case.pp == 1 or not _BATCH.holds(case):
        return True
    if case.pp_schedule == "interleaved_1f1b":
        # More data ranks have fewer micro-batches each, which may divide.
        return not case.data_ranks_known or case.micro_batches % max(1, case.micro_batches // case.pp) == 0
    return case.pp_schedule == "zbv" or case.micro_batches >= case.pp


_MICRO_BATCHES = Rule(
    setting=lambda _: "parallel.pp",
    holds=_fills_pipeline,
    says=lambda case: (
        f"each data parallel rank has {case.micro_batches} micro-batches a step, which do not divide into the "
        f"{case.micro_batches // case.pp} rounds of pp_schedule=interleaved_1f1b"
        if case.pp_schedule == "interleaved_1f1b"
        else f"pp_schedule=1f1b needs a micro-batch for each of its {case.pp} stages, "
        f"but each data parallel rank has {case.micro_batches} a step"
    ),
    vary=("global_batch_size", "micro_batch_size", "pp"),
)

RULES: tuple[Rule, ...] = (
    _ONE_PROCESS,
    _only_fsdp("tp"),
    _PIPELINE,
    _only_fsdp("cp"),
    _REPLICAS,
    _SHARDS,
    _RANKS,
    _BATCH,
    _HEADS_AND_FEATURES,
    _POSITIONS,
    _TOKENS,
    _ULYSSES,
    _STAGES_PER_RANK,
    _LAYERS,
    _MICRO_BATCHES,
)
"""Everything that a layout must keep."""
