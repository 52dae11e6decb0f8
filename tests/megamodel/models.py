"""Small models of both families and their transformers twins, for tests of the model, its families and tools."""

import torch
from torch import Tensor

from megamodel.config import ModelConfig
from megamodel.families import family_of
from megamodel.gpt import GPT
from megamodel.init import draw

SIZES = {
    "vocab_size": 128,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 64,
    "initializer_range": 0.1,
}
GPT2 = {
    "position_embedding": "learned",
    "norm": "layernorm",
    "activation": "gelu",
    "attention_bias": True,
    "mlp_bias": True,
}

CONFIGS = {
    "llama": ModelConfig(**SIZES),
    "llama-gqa-tied": ModelConfig(**SIZES, num_key_value_heads=2, tie_word_embeddings=True, rope_theta=10000.0),
    "llama-biases-head-dim": ModelConfig(
        **SIZES, head_dim=32, num_key_value_heads=1, attention_bias=True, mlp_bias=True
    ),
    "gpt2": ModelConfig(**SIZES, **GPT2, tie_word_embeddings=True),
    "gpt2-untied": ModelConfig(**SIZES, **GPT2),
}


def random_weights(config: ModelConfig, seed: int = 1) -> dict[str, Tensor]:
    """Weights in which every tensor matters: biases and norms are random too, unlike initial ones."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, parameter in GPT(config).named_parameters():
        noise = 0.2 * torch.randn(parameter.shape, generator=generator)
        weights[name] = draw(name, parameter.shape, config, seed) + (noise if parameter.dim() == 1 else 0.0)
    return weights


def our_model(config: ModelConfig, weights: dict[str, Tensor]) -> GPT:
    """Our decoder with the weights."""
    model = GPT(config)
    model.load_state_dict(weights)
    return model


def hf_model(config: ModelConfig, weights: dict[str, Tensor]) -> torch.nn.Module:
    """The same model in transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    family = family_of(config)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**family.config_to_hf(config)))
    result = model.load_state_dict(family.weights_to_hf(config, weights), strict=False)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    assert set(result.missing_keys) <= tied and not result.unexpected_keys
    return model.eval()
