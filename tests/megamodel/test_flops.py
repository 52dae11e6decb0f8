"""The FLOP convention equals what torch counts, and the measured rate is a rate."""

import time

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from megamodel.config import ModelConfig
from megamodel.flops import flops_per_token, matmul_parameters, measured_matmul_flops, peak_flops, published_peak
from megamodel.gpt import GPT
from megamodel.init import initialize
from megamodel.parallel.shard import holdings

SIZES = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 80}
CONFIGS = [
    ModelConfig(**SIZES, num_key_value_heads=2),
    ModelConfig(**SIZES, activation="gelu", norm="layernorm", tie_word_embeddings=True),
]


@pytest.mark.parametrize("config", CONFIGS, ids=["llama-gqa", "gpt2-tied"])
def test_convention_is_three_times_the_counted_forward_pass(config: ModelConfig) -> None:
    model = GPT(config)
    initialize(holdings(model.named_parameters()), config, seed=1)
    # The counter knows no CPU flash attention; the plain products of the math backend it does.
    with FlopCounterMode(display=False) as counter, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(torch.randint(config.vocab_size, (2, 16)))
    counted = counter.get_total_flops()
    assert counted * 3 == flops_per_token(config, 16) * 2 * 16


def test_the_embedding_table_is_not_counted_and_a_tied_head_is() -> None:
    untied, tied = (ModelConfig(**SIZES, tie_word_embeddings=flag) for flag in (False, True))
    assert matmul_parameters(untied) == matmul_parameters(tied)
    smaller = untied.model_copy(update={"vocab_size": 64})
    assert matmul_parameters(untied) - matmul_parameters(smaller) == 32 * 32


def test_measured_rate() -> None:
    started = time.perf_counter()
    rate = measured_matmul_flops(torch.device("cpu"), torch.float32)
    assert time.perf_counter() - started < 5
    assert 1e8 < rate < 1e15


def test_a_cpu_has_no_published_peak() -> None:
    assert peak_flops(torch.device("cpu"), torch.float32) is None


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("NVIDIA L4", 121e12),
        ("NVIDIA L40", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA GH200 480GB", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
    ],
)
def test_a_sibling_does_not_have_its_siblings_peak(name: str, rate: float | None) -> None:
    assert published_peak(name) == rate
