"""The loader's speed, measured as `bench loader` measures it."""

from pathlib import Path

import pytest

from data_pipeline.execute import tokenize, train_tokenizer_on
from data_pipeline.mixture import Mixture
from tools.bench.loader import measure_loader

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
