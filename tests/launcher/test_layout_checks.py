"""Which layouts are refused, and that every alternative that a refusal names is legal."""

import re
from dataclasses import replace
from itertools import product

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from launcher.config import RunConfig
from launcher.errors import UserError
from launcher.layout import layout_of
from launcher.layout_checks import RULES, Case, layout_problems, problems_of
from launcher.yaml_config import load
from tests.conftest import LLAMA, ROOT

MODEL = {
    "vocab_size": 512,
    "hidden_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "intermediate_size": 96,
}
TRAIN = {"steps": 9, "global_batch_size": 48, "micro_batch_size": 1, "seq_len": 96}


def run(engine="fsdp", model=None, train=None, **parallel):
    tree = {
        "run_dir": "run",
        "model": {**MODEL, **(model or {})},
        "data": {"tokenizer": "tokenizer", "sources": [{"path": "set"}]},
        "train": {**TRAIN, **(train or {})},
        "optimizer": {"lr": 1e-3},
        "engine": {"name": engine},
        "parallel": parallel,
    }
    return RunConfig.model_validate(tree)


def refused(config, ranks):
    return {problem.setting: problem.message for problem in layout_problems(config, ranks)}


LEGAL = [
    ("single", {}, 1),
    ("ddp", {}, 3),
    ("ddp", {"dp_replicate": 2}, 2),
    ("deepspeed", {}, 4),
    ("fsdp", {}, 4),
    ("fsdp", {"dp_replicate": 2}, 4),
    ("fsdp", {"dp_replicate": 2, "dp_shard": 2}, 4),
    ("fsdp", {"tp": 4}, 8),
    ("fsdp", {"cp": 3, "tp": 4}, 12),
    ("fsdp", {"cp": 6, "cp_method": "ulysses", "tp": 2}, 12),
    ("fsdp", {"pp": 6}, 6),
    ("fsdp", {"pp": 3, "pp_schedule": "zbv"}, 6),
    ("fsdp", {"pp": 2, "pp_schedule": "interleaved_1f1b", "pp_stages_per_rank": 3}, 2),
    ("fsdp", {"pp": 2, "tp": 2, "dp_replicate": 2}, 16),
    ("fsdp", {"pp": 2, "cp": 2, "tp": 2}, 8),
]

ILLEGAL = [
    ("single", {}, {}, 2, "engine.name", "single is one process, but there are 2 ranks"),
    ("ddp", {"dp_shard": 2}, {}, 2, "parallel.dp_shard", "engine.name=ddp shards nothing"),
    ("single", {"dp_replicate": 2}, {}, 1, "parallel.dp_replicate", "engine.name=single is one copy"),
    ("deepspeed", {"dp_shard": 2}, {}, 2, "parallel.dp_shard", "shards over all ranks, as engine.zero_stage says"),
    ("deepspeed", {"dp_replicate": 2}, {}, 2, "parallel.dp_replicate", "use engine.name=fsdp for replicas"),
    ("deepspeed", {"pp": 2}, {}, 2, "parallel.pp", "ZeRO and a pipeline do not go together"),
    ("deepspeed", {"tp": 2}, {}, 2, "parallel.tp", "engine.name=deepspeed does not cut along tp; use engine.name=fsdp"),
    ("ddp", {"cp": 2}, {}, 2, "parallel.cp", "does not cut along cp; use engine.name=fsdp, or cp=1"),
    ("ddp", {"pp": 2}, {}, 2, "parallel.pp", "does not cut along pp; use engine.name=fsdp, or pp=1"),
    ("fsdp", {"dp_replicate": 2, "dp_shard": 2}, {}, 2, "parallel.dp_shard", "; the nearest that fit: dp_replicate 1;"),
    ("fsdp", {"dp_replicate": 2, "dp_shard": 2}, {}, 2, "parallel.dp_shard", "; dp_shard 1; ranks 4"),
    ("fsdp", {"dp_replicate": 3}, {}, 4, "parallel.dp_replicate", "= 3 ranks do not divide the 4 ranks;"),
    ("fsdp", {"dp_replicate": 3}, {}, 4, "parallel.dp_replicate", "fit: dp_replicate 2 or 4; ranks 3 or 6"),
    ("fsdp", {"tp": 2}, {}, 1, "parallel.tp", "tp 2 = 2 ranks, but there is 1 rank; the nearest that fit: tp 1; ranks"),
    ("ddp", {"dp_replicate": 4}, {}, 2, "parallel.dp_replicate", "= 4 ranks, but there are 2 ranks"),
    ("fsdp", {"pp": 2, "tp": 4}, {}, 12, "parallel.pp", "pp 2 x tp 4 = 8 ranks do not divide the 12 ranks; "),
    ("fsdp", {"tp": 3}, {}, 3, "parallel.tp", "3 does not divide model.num_key_value_heads=4; the nearest that fit: "),
    ("fsdp", {"tp": 8}, {}, 8, "parallel.tp", "8 does not divide model.num_attention_heads=12 and model.num_key"),
    ("fsdp", {"tp": 8}, {}, 8, "parallel.tp", "; the nearest that fit: tp 4"),
    ("fsdp", {"tp": 4}, {"seq_len": 94}, 4, "train.seq_len", "fit: seq_len 92 or 96; tp 2"),
    ("fsdp", {"cp": 4}, {"seq_len": 100}, 4, "train.seq_len", "of which the ring cuts 8 pieces"),
    ("fsdp", {"cp": 4}, {"seq_len": 100}, 4, "train.seq_len", "fit: seq_len 96 or 104; cp 2"),
    ("fsdp", {"cp": 5, "cp_method": "ulysses"}, {"seq_len": 60}, 5, "parallel.cp", "5 does not divide model.num_att"),
    ("fsdp", {"pp": 8}, {}, 8, "parallel.pp", "are fewer than the 8 stages of pp 8 with pp_schedule=1f1b"),
    ("fsdp", {"pp": 4, "pp_schedule": "zbv"}, {}, 4, "parallel.pp", "fewer than the 8 stages of pp 4 with"),
    (
        "fsdp",
        {"pp": 2, "pp_schedule": "interleaved_1f1b", "pp_stages_per_rank": 1},
        {},
        2,
        "parallel.pp_stages_per_rank",
        "the nearest that fit: pp_stages_per_rank 2",
    ),
    ("fsdp", {"pp": 4}, {"global_batch_size": 3}, 4, "parallel.pp", "but each data parallel rank has 3 a step"),
    ("fsdp", {"pp": 4}, {"global_batch_size": 3}, 4, "parallel.pp", "fit: global_batch_size 4"),
    (
        "fsdp",
        {"pp": 2, "pp_schedule": "interleaved_1f1b"},
        {"global_batch_size": 5},
        2,
        "parallel.pp",
        "do not divide into the 2 rounds of pp_schedule=interleaved_1f1b; the nearest that fit: global_batch_size 4 or",
    ),
    ("fsdp", {"tp": 2}, {"global_batch_size": 7}, 8, "train.global_batch_size", "over 4 data parallel ranks x micro"),
]


@pytest.mark.parametrize(("engine", "parallel", "ranks"), LEGAL)
def test_layouts_that_fit(engine, parallel, ranks):
    config = run(engine, **parallel)
    assert refused(config, ranks) == {}
    layout = layout_of(config, ranks)
    assert layout.world_size == ranks
    assert all(getattr(layout, axis) == size for axis, size in parallel.items() if axis in ("pp", "cp", "tp"))


@pytest.mark.parametrize(("engine", "parallel", "train", "ranks", "setting", "part"), ILLEGAL)
def test_layouts_that_do_not_fit(engine, parallel, train, ranks, setting, part):
    config = run(engine, train=train, **parallel)
    assert part in refused(config, ranks)[setting]
    with pytest.raises(UserError):
        layout_of(config, ranks)


def test_learned_positions_end():
    config = run(model={"position_embedding": "learned", "max_position_embeddings": 100}, train={"seq_len": 100}, cp=4)
    assert refused(config, 4)["train.seq_len"].endswith("; the nearest that fit: seq_len 96; cp 2")


def test_both_mistakes_of_one_setting_name_a_value_that_mends_both():
    config = run(model={"position_embedding": "learned", "max_position_embeddings": 100}, train={"seq_len": 130}, cp=4)
    messages = [problem.message for problem in layout_problems(config, 4) if problem.setting == "train.seq_len"]
    assert len(messages) == 2 and all("; the nearest that fit: seq_len 96" in message for message in messages)


def test_a_wrong_number_of_ranks_is_the_only_mistake_told_of_it():
    """Of seven ranks with tp 2, three would be left for data, among which the batch does not divide."""
    message = refused(run(tp=2, train={"global_batch_size": 8}), 7)
    assert message.keys() == {"parallel.tp"}
    assert message["parallel.tp"].endswith("ranks do not divide the 7 ranks; the nearest that fit: ranks 4 or 8")


def test_a_batch_that_no_number_of_ranks_divides_is_told_beside_it():
    train = {"global_batch_size": 7, "micro_batch_size": 2}
    assert refused(run(tp=2, train=train), 7).keys() == {"parallel.tp", "train.global_batch_size"}


def test_micro_batches_of_an_unknown_number_of_ranks():
    """Five of them do not divide into rounds of two; one on each of five data ranks does."""
    config = run(pp=2, pp_schedule="interleaved_1f1b", train={"global_batch_size": 5})
    assert refused(config, None) == refused(config, 10) == {} != refused(config, 2)


def test_an_unknown_number_of_ranks_is_no_mistake():
    assert refused(run(tp=4, pp=2), None) == {}
    assert refused(run(tp=4, pp=2, dp_shard=5), None).keys() == {"train.global_batch_size"}


_SMALL = st.integers(1, 9)
CASES = st.builds(
    Case,
    engine=st.sampled_from(["fsdp"] * 5 + ["single", "ddp", "deepspeed"]),
    ranks=st.none() | st.integers(1, 40),
    pp=_SMALL,
    dp_replicate=st.integers(1, 3),
    dp_shard=st.none() | _SMALL,
    cp=st.integers(1, 5),
    tp=_SMALL,
    pp_schedule=st.sampled_from(["1f1b", "interleaved_1f1b", "zbv"]),
    pp_stages_per_rank=st.integers(1, 3),
    cp_method=st.sampled_from(["ring", "ulysses"]),
    heads=st.just(12),
    kv_heads=st.sampled_from([1, 2, 3, 4, 6, 12]),
    intermediate_size=st.integers(1, 60),
    layers=_SMALL,
    longest=st.none() | st.integers(1, 300),
    seq_len=st.integers(1, 300),
    global_batch_size=st.integers(1, 200),
    micro_batch_size=_SMALL,
)


@settings(max_examples=200, deadline=None, derandomize=True, phases=[Phase.generate])
@given(CASES)
def test_every_value_that_a_refusal_names_works(case):
    """It mends what it is named for and breaks nothing else; of a single mistake it leaves nothing."""
    broken = [rule for rule in RULES if not rule.holds(case)]
    for rule, problem in zip(broken, problems_of(case), strict=True):
        near = problem.message.partition("; the nearest that fit: ")[2]
        for field, values in re.findall(r"(\w+) (\d+(?: or \d+)?)", near):
            for value in map(int, values.split(" or ")):
                after = [rule for rule in RULES if not rule.holds(replace(case, **{field: value}))]
                assert value != getattr(case, field)
                assert rule not in after
                assert set(after) <= set(broken)


def test_the_nearest_are_the_nearest():
    """Counted through for one case: of 12 heads and 4 key/value heads on 24 ranks, no other tp is between."""
    legal = [tp for tp in range(1, 25) if not refused(run(tp=tp, train={"global_batch_size": 96}), 24)]
    assert legal == [1, 2, 4]
    message = refused(run(tp=3, train={"global_batch_size": 96}), 24)["parallel.tp"]
    assert message.endswith("; the nearest that fit: tp 2 or 4")


def test_the_schedules_themselves_draw_the_same_line():
    """torch refuses exactly the numbers of micro-batches that the check refuses."""
    from tests.ranks import in_ranks

    [found] = in_ranks(_torch_takes, 1)
    assert len(found) == 3 * 2 * 12
    for schedule, pp, micro_batches, takes in found:
        config = run(train={"global_batch_size": micro_batches}, pp=pp, pp_schedule=schedule)
        assert (refused(config, pp) == {}) == bool(takes), (schedule, pp, micro_batches)


def _torch_takes():
    """(schedule, pp, micro-batches, whether torch makes a schedule of them), seen from rank 0 of a group that is not
    there: making a schedule sends nothing."""
    import torch
    import torch.distributed as dist
    from torch.distributed.pipelining import PipelineStage
    from torch.distributed.pipelining.schedules import Schedule1F1B, ScheduleInterleaved1F1B, ScheduleZBVZeroBubble
    from torch.testing._internal.distributed.fake_pg import FakeStore

    def takes(schedule, pp, micro_batches):
        mine = {"1f1b": [0], "interleaved_1f1b": [0, pp], "zbv": [0, 2 * pp - 1]}[schedule]
        total, x = pp * len(mine), torch.zeros(1, 4)
        stages = [PipelineStage(torch.nn.Linear(4, 4), i, total, torch.device("cpu"), x, x) for i in mine]
        loss = torch.nn.functional.mse_loss
        try:
            if schedule == "1f1b":
                Schedule1F1B(stages[0], micro_batches, loss)
            else:
                kind = {"interleaved_1f1b": ScheduleInterleaved1F1B, "zbv": ScheduleZBVZeroBubble}[schedule]
                kind(stages, micro_batches, loss)
        except ValueError:
            return 0
        return 1

    found = []
    dist.destroy_process_group()
    for pp in (2, 3):
        dist.init_process_group("fake", rank=0, world_size=pp, store=FakeStore())
        for schedule, n in product(("1f1b", "interleaved_1f1b", "zbv"), range(1, 13)):
            found.append([schedule, pp, n, takes(schedule, pp, n)])
        dist.destroy_process_group()
    dist.init_process_group("fake", rank=0, world_size=1, store=FakeStore())
    return found


@pytest.mark.parametrize(("name", "ranks"), [("llama3-8b-64gpu", 64), ("llama3-8b-64gpu", 128), ("llama3-1b-8gpu", 8)])
def test_the_examples_fit_the_ranks_that_they_are_made_for(name, ranks):
    config = load(ROOT / f"configs/runs/{name}.yaml", RunConfig).value
    assert refused(config, ranks) == {}
    assert layout_of(config, ranks).world_size == ranks
    assert refused(config, ranks + 3).keys() >= {"parallel.dp_shard" if config.parallel.dp_shard else "parallel.pp"}


def test_where_no_single_number_helps_the_nearest_of_the_rule_are_named_all_the_same(tiny_run):
    model = LLAMA | {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 3, "intermediate_size": 96}
    config = tiny_run(model=model, engine={"name": "fsdp"}, parallel={"tp": 4}, train={"global_batch_size": 12})
    (problem,) = problems_of(Case.of(load(config, RunConfig).value, 4))
    assert problem.message.endswith("this rule allows: tp 3, which need other ranks or another batch")
