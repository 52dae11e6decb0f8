"""Llama 2 and 3 (arXiv:2302.13971, arXiv:2407.21783) as Hugging Face's LlamaForCausalLM stores them."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from megamodel.config import ModelConfig
from megamodel.families.settings import differences, drop_tied_copy, refuse_unless

NAME = "llama"
ARCHITECTURE = "LlamaForCausalLM"

_CHOICES = {"position_embedding": "rope", "norm": "rmsnorm", "activation": "swiglu"}
_HEAD = "lm_head.weight"
_FREQUENCIES = "rotary_emb.inv_freq"  # constants in older files


def matches(config: ModelConfig) -> list[str]:
    """Settings that keep a model from being a Llama; none: it is one."""
    problems = differences(config, _CHOICES)
    if config.hidden_size % config.num_attention_heads:
        problems.append(f"num_attention_heads={config.num_attention_heads} must divide hidden_size")
    return problems


def weights_to_hf(config: ModelConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our names to Llama's: the same, below `model.`; the head stands beside it."""
    return {name if name == _HEAD else f"model.{name}": tensor for name, tensor in weights.items()}


def weights_from_hf(config: ModelConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Llama's names to ours. A stored copy of a tied head is left out, and refused when it is no copy."""
    ours = {n.removeprefix("model."): tensor for n, tensor in weights.items() if not n.endswith(_FREQUENCIES)}
    if config.tie_word_embeddings:
        drop_tied_copy(_HEAD, ours, ours["embed_tokens.weight"])
    return ours


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The architecture part of config.json. The rotary base stands twice: transformers 5 reads one, 4 the other."""
    return {
        "model_type": NAME,
        "architectures": [ARCHITECTURE],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.size_per_head,
        "hidden_act": "silu",
        "max_position_embeddings": config.max_position_embeddings,
        "initializer_range": config.initializer_range,
        "rms_norm_eps": config.norm_eps,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rope_theta": config.rope_theta,
        "attention_bias": config.attention_bias,
        "attention_dropout": 0.0,
        "mlp_bias": config.mlp_bias,
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def config_from_hf(hf: Mapping[str, Any]) -> ModelConfig:
    """Read config.json; ModelError for a Llama that our decoder is not (scaled rotary positions, say)."""
    rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    refuse_unless("rope_type", rope.get("rope_type", rope.get("type", "default")), "default")
    refuse_unless("hidden_act", hf.get("hidden_act", "silu"), "silu")
    return ModelConfig(
        vocab_size=hf["vocab_size"],
        hidden_size=hf["hidden_size"],
        num_hidden_layers=hf["num_hidden_layers"],
        num_attention_heads=hf["num_attention_heads"],
        num_key_value_heads=hf.get("num_key_value_heads"),
        head_dim=hf.get("head_dim"),
        intermediate_size=hf["intermediate_size"],
        max_position_embeddings=hf.get("max_position_embeddings", 2048),
        rope_theta=rope.get("rope_theta") or hf.get("rope_theta", 10000.0),
        norm_eps=hf.get("rms_norm_eps", 1e-6),
        attention_bias=hf.get("attention_bias", False),
        mlp_bias=hf.get("mlp_bias", False),
        tie_word_embeddings=hf.get("tie_word_embeddings", False),
        initializer_range=hf.get("initializer_range", 0.02),
    )
