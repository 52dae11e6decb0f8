"""A tied head on another stage than its table: the copy must stay equal, also across restarts."""

import pytest

from tests.conftest import GPT2, metrics_of
from tests.ranks import train_in_ranks

FOUR = GPT2 | {"num_hidden_layers": 4}
PIPELINES = {
    "1f1b": (2, ["engine.name=fsdp", "parallel.pp=2", "train.micro_batch_size=2"]),
    "zbv": (2, ["engine.name=fsdp", "parallel.pp=2", "parallel.pp_schedule=zbv", "train.micro_batch_size=2"]),
    "with tp": (4, ["engine.name=fsdp", "parallel.pp=2", "parallel.tp=2"]),
}


@pytest.mark.parametrize("name", PIPELINES)
def test_a_tied_model_moves_between_a_pipeline_and_one_process(tiny_run, tmp_path, name):
    ranks, layout = PIPELINES[name]
    config = tiny_run(model=FOUR, train={"steps": 10, "micro_batch_size": 1})
    train_in_ranks(config)
    for first, then in (((ranks, layout), (1, [])), ((1, []), (ranks, layout)), ((ranks, layout), (ranks, layout))):
        run = tmp_path / f"{first[0]} then {then[0]}"
        train_in_ranks(config, *first[1], f"run_dir={run}", "train.stop_at_step=5", ranks=first[0])
        train_in_ranks(config, *then[1], f"run_dir={run}", ranks=then[0])
        for ours, theirs in zip(metrics_of(run), metrics_of(tmp_path / "run"), strict=True):
            assert ours["samples_digest"] == theirs["samples_digest"]
            assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-5), ours["step"]
