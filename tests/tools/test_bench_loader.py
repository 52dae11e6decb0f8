"""The loader's speed, measured as `bench loader` measures it."""

import json
from pathlib import Path

import pytest

from data_pipeline.execute import tokenize, train_tokenizer_on
from data_pipeline.mixture import Mixture
from data_pipeline.shards import ShardSet
from launcher.cli.bench_loader import loader, print_table
from tests.conftest import write_run
from tools.bench.loader import OURS, compare_ways, measure_loader
from tools.bench.random_shards import write_random_shards

SAMPLE = Path(__file__).parents[2] / "data_pipeline" / "sample" / "zh.jsonl"


@pytest.mark.slow  # a time, so not part of `make test`
@pytest.mark.parametrize("seq_len", [256, 2048])
def test_fifty_million_tokens_a_second(tmp_path: Path, seq_len: int):
    tokenize([SAMPLE], train_tokenizer_on([SAMPLE], 300), tmp_path / "set", tokens_per_shard=500_000)
    mixture = Mixture.open([(tmp_path / "set", 1.0)], seq_len, 0)
    measured = max((measure_loader(mixture, seconds=0.5) for _ in range(3)), key=lambda m: m["tokens_per_second"])
    assert measured["tokens_per_second"] > 50e6, measured
    assert measured["batches"] * measured["global_batch_size"] * seq_len == pytest.approx(
        measured["tokens_per_second"] * measured["seconds"]
    )


def test_the_ways_of_reading_side_by_side(tmp_path: Path):
    prefix = write_random_shards(tmp_path, 20_000_000)
    shards = ShardSet.open(prefix)
    assert shards.num_tokens == 10_000_000 and shards.num_documents == 10_000
    ways = compare_ways(lambda: Mixture.open([(prefix, 1.0)], 512, 0), 128, seconds=0.1, rounds=1)
    assert ways[0]["way"] == OURS and len(ways) >= 6
    assert all(way["warm"] > 0 and way["warm_ratio"] > 0 for way in ways)
    cold = [way for way in ways if way["cold"] is not None]
    if cold:  # not where the files lie in memory
        assert len(cold) == len(ways) and all(way["moved_per_asked"] > 0.5 for way in cold)
        assert ways[0]["cold_ratio"] == 1


def test_the_command_needs_no_configuration(capsys: pytest.CaptureFixture[str]):
    options = {"config": None, "overrides": None, "seconds": 0.1, "rounds": 1, "size": 0.01}
    loader(**options, as_json=True)
    found = json.loads(capsys.readouterr().out)
    assert {"way", "cold", "warm", "moved_per_asked", "cold_ratio", "warm_ratio"} <= found["ways"][0].keys()
    assert found["bytes"] == 10_000_000
    assert found["command"] == "megamodel bench loader --seconds 0.1 --rounds 1 --size 0.01"
    print_table(found)
    shown = capsys.readouterr().out
    assert "pread" in shown and f"again: {found['command']}" in shown and "best_fit" not in shown


def test_the_command_says_that_packed_rows_are_read_otherwise(
    tiny_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    packed = {"packing": "best_fit", "separate_documents": True, "sources": [{"path": str(tiny_data / "train")}]}
    run = write_run(tiny_data, tmp_path, data=packed)
    loader(run, None, seconds=0.1, rounds=1, size=None, as_json=False)
    assert "best_fit: megamodel joins documents into rows, the other ways" in capsys.readouterr().out
