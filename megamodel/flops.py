"""How much arithmetic a training step is, by one named convention, and how fast this device multiplies matrices."""

import statistics
import time

import torch

from megamodel.config import ModelConfig

CONVENTION = "6·N + 12·L·d·T FLOPs a token; N = matrices and head without the embedding table"
"""The convention of `flops_per_token`, for legends."""

# Dense bf16 tensor-core rates from NVIDIA's data sheets, by the device's whole name: a PCIe or NVL form, a part of a
# GPU (MIG) or a sibling (L40, GH200) has another rate.
_PEAK_BF16 = {
    "NVIDIA B200": 2250e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
}
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
    return published_peak(torch.cuda.get_device_name(device))


def published_peak(name: str) -> float | None:
    """The dense bf16 FLOP/s on the data sheet of the GPU of that name; None when it is not known to the digit."""
    return _PEAK_BF16.get(name)


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
