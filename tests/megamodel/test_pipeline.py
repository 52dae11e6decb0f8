"""Which blocks make a stage, and which rank computes it."""

import itertools

import pytest

from megamodel.config import ModelConfig
from megamodel.parallel.pipeline import blocks_per_stage, rank_of_stage, split
from tests.conftest import LLAMA


def config(layers: int, vocab: int = 320) -> ModelConfig:
    return ModelConfig(**LLAMA | {"num_hidden_layers": layers, "vocab_size": vocab})


def block_and_head_flops(model: ModelConfig, seq_len: int) -> tuple[float, float]:
    from megamodel.flops import flops_per_token, matmul_parameters

    head = 6 * model.vocab_size * model.hidden_size
    assert matmul_parameters(model) > model.vocab_size * model.hidden_size
    return (flops_per_token(model, seq_len) - head) / model.num_hidden_layers, head


@pytest.mark.parametrize(("layers", "stages", "vocab"), [(7, 3, 320), (8, 4, 3200), (6, 2, 32000), (9, 4, 320)])
def test_no_other_split_has_a_faster_slowest_stage(layers, stages, vocab):
    model = config(layers, vocab)
    block, head = block_and_head_flops(model, 64)

    def slowest(counts):
        return max(count * block + (head if i == stages - 1 else 0) for i, count in enumerate(counts))

    possible = [c for c in itertools.product(range(1, layers + 1), repeat=stages) if sum(c) == layers]
    assert slowest(blocks_per_stage(model, 64, stages)) == min(map(slowest, possible))


def test_a_large_head_takes_blocks_off_the_last_stage():
    assert blocks_per_stage(config(12, 320), 64, 2)[1] >= 5
    assert blocks_per_stage(config(12, 32000), 64, 2)[1] == 1


def test_between_equally_fast_splits_the_embedding_counts():
    # Ten blocks on three equally fast stages: the one more goes where there is neither table nor head.
    counts = blocks_per_stage(config(10, 32), 64, 3)
    assert counts[0] == 3
    assert sum(counts) == 10


def test_the_parts_are_the_model_once():
    parts = split(config(7), 64, 3)
    assert [layer for part in parts for layer in part.blocks] == list(range(7))
    assert [(part.first, part.last) for part in parts] == [(True, False), (False, False), (False, True)]


def test_stages_go_round_the_ranks_or_down_and_up():
    assert [rank_of_stage(stage, 2, "1f1b") for stage in range(2)] == [0, 1]
    assert [rank_of_stage(stage, 2, "interleaved_1f1b") for stage in range(4)] == [0, 1, 0, 1]
    assert [rank_of_stage(stage, 3, "zbv") for stage in range(6)] == [0, 1, 2, 2, 1, 0]
