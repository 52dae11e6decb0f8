"""How much arithmetic a training step is, by one named convention, and how fast this device multiplies matrices."""

import statistics
import time

import torch

from megamodel.config import ModelConfig

CONVENTION = "6·N + 12·L·d·T FLOPs a token; N = matrices and head without the embedding table"
"""The convention of `flops_per_token`, for legends."""

# Dense bf16 tensor-core rates from NVIDIA's data sheets (SXM forms), by a part of the device's name.
_PEAK_BF16 = {"B200": 2250e12, "H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
_MATMUL_SIZE = {"cpu": 1024, "cuda": 8192}


def matmul_parameters(config: ModelConfig) -> int:
    """N: elements of every matrix that multiplies activations, the head counted once whether tied or not."""
    queries = config.num_attention_heads * config.size_per_head
    keys_values = 2 * config.kv_heads * config.size_per_head
    attention = config.hidden_size * (queries + keys_values) + queries * config.hidden_size
    projections = 3 if config.activation == "swiglu" else 2
    mlp = projections * config.hidden_size * config.intermediate_size
    return config.num_hidden_layers * (attention + mlp) + config.vocab_size * config.hidden_size


def flops_per_token(config: ModelConfig, seq_len: int) -> float:
    """FLOPs of forward and backward for one token of a sequence of `seq_len`: 6·N + 12·L·d·T (arXiv:2204.02311).

    d is the width of attention (heads * head_dim). The causal mask is not credited, recomputation is not counted.
    """
    width = config.num_attention_heads * config.size_per_head
    return 6.0 * matmul_parameters(config) + 12.0 * config.num_hidden_layers * width * seq_len


def peak_flops(device: torch.device, dtype: torch.dtype) -> float | None:
    """The published dense FLOP/s of a GPU in bf16; None when unknown: CPUs, other GPUs, other types."""
    if device.type != "cuda" or dtype != torch.bfloat16:
        return None
    name = torch.cuda.get_device_name(device)
    return next((rate for part, rate in _PEAK_BF16.items() if part in name), None)


def measured_matmul_flops(device: torch.device, dtype: torch.dtype, rounds: int = 7) -> float:
    """FLOP/s that a large square matrix product reaches here and now: the median of a few, in under a second."""
    size = _MATMUL_SIZE.get(device.type, 1024)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.mm(a, b)
    seconds = []
    for _ in range(rounds):
        _wait(device)
        started = time.perf_counter()
        torch.mm(a, b, out=out)
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return 2.0 * size**3 / statistics.median(seconds)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
