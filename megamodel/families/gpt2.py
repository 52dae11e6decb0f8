"""GPT-2 (Radford et al. 2019) as Hugging Face's GPT2LMHeadModel stores it.

Its projections are [in, out], ours are [out, in]; query, key and value are one matrix [D, 3D].
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from megamodel.config import ModelConfig
from megamodel.families.settings import differences, drop_tied_copy, refuse_unless

NAME = "gpt2"
ARCHITECTURE = "GPT2LMHeadModel"

_CHOICES = {
    "position_embedding": "learned",
    "norm": "layernorm",
    "activation": "gelu",
    "attention_bias": True,
    "mlp_bias": True,
}
_HEAD = "lm_head.weight"
_OUTSIDE = {
    "embed_tokens.weight": "wte.weight",
    "embed_positions.weight": "wpe.weight",
    "norm.weight": "ln_f.weight",
    "norm.bias": "ln_f.bias",
}
_NORMS = {"input_layernorm": "ln_1", "post_attention_layernorm": "ln_2"}
_MATRICES = {"self_attn.o_proj": "attn.c_proj", "mlp.up_proj": "mlp.c_fc", "mlp.down_proj": "mlp.c_proj"}
_MASKS = (".attn.bias", ".attn.masked_bias")  # constants in older files
_FUSED = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


def matches(config: ModelConfig) -> list[str]:
    """Settings that keep a model from being a GPT-2; none: it is one."""
    problems = differences(config, _CHOICES)
    if config.kv_heads != config.num_attention_heads:
        problems.append(f"num_key_value_heads={config.kv_heads} must be num_attention_heads")
    if config.size_per_head * config.num_attention_heads != config.hidden_size:
        problems.append(f"head_dim={config.size_per_head} must be hidden_size / num_attention_heads")
    return problems


def weights_to_hf(config: ModelConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Our tensors under GPT-2's names: transposed, query, key and value fused. A tied head is not stored."""
    theirs = {f"transformer.{name}": weights[ours] for ours, name in _OUTSIDE.items()}
    for layer in range(config.num_hidden_layers):
        ours, block = f"layers.{layer}", f"transformer.h.{layer}"
        for kind in ("weight", "bias"):
            for name, norm in _NORMS.items():
                theirs[f"{block}.{norm}.{kind}"] = weights[f"{ours}.{name}.{kind}"]
            for name, matrix in _MATRICES.items():
                theirs[f"{block}.{matrix}.{kind}"] = weights[f"{ours}.{name}.{kind}"].t()
            fused = torch.cat([weights[f"{ours}.{name}.{kind}"] for name in _FUSED])
            theirs[f"{block}.attn.c_attn.{kind}"] = fused.t()
    if not config.tie_word_embeddings:
        theirs[_HEAD] = weights[_HEAD]
    return theirs


def weights_from_hf(config: ModelConfig, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """GPT-2's tensors under our names; files with and without `transformer.` before each name are read."""
    theirs = {name.removeprefix("transformer."): t for name, t in weights.items() if not name.endswith(_MASKS)}
    ours = {name: theirs.pop(their) for name, their in _OUTSIDE.items()}
    for layer in range(config.num_hidden_layers):
        block, our_block = f"h.{layer}", f"layers.{layer}"
        for kind in ("weight", "bias"):
            for name, norm in _NORMS.items():
                ours[f"{our_block}.{name}.{kind}"] = theirs.pop(f"{block}.{norm}.{kind}")
            for name, matrix in _MATRICES.items():
                ours[f"{our_block}.{name}.{kind}"] = theirs.pop(f"{block}.{matrix}.{kind}").t()
            parts = theirs.pop(f"{block}.attn.c_attn.{kind}").t().chunk(3)
            ours |= {f"{our_block}.{name}.{kind}": part for name, part in zip(_FUSED, parts, strict=True)}
    if config.tie_word_embeddings:
        drop_tied_copy(_HEAD, theirs, ours["embed_tokens.weight"])
    return ours | theirs  # whatever is left has no place in the model, and its loader will say so


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """The architecture part of config.json; `n_ctx` is for converters that read nothing newer."""
    return {
        "model_type": NAME,
        "architectures": [ARCHITECTURE],
        "vocab_size": config.vocab_size,
        "n_embd": config.hidden_size,
        "n_inner": config.intermediate_size,
        "n_layer": config.num_hidden_layers,
        "n_head": config.num_attention_heads,
        "n_positions": config.max_position_embeddings,
        "n_ctx": config.max_position_embeddings,
        "activation_function": "gelu_new",
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": config.initializer_range,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def config_from_hf(hf: Mapping[str, Any]) -> ModelConfig:
    """Read config.json; ModelError for a GPT-2 that our decoder is not (another activation, scaled attention)."""
    activation = hf.get("activation_function", "gelu_new")
    if activation != "gelu_pytorch_tanh":  # the same function as gelu_new
        refuse_unless("activation_function", activation, "gelu_new")
    refuse_unless("scale_attn_weights", hf.get("scale_attn_weights", True), True)
    refuse_unless("scale_attn_by_inverse_layer_idx", hf.get("scale_attn_by_inverse_layer_idx", False), False)
    return ModelConfig(
        vocab_size=hf["vocab_size"],
        hidden_size=hf["n_embd"],
        num_hidden_layers=hf["n_layer"],
        num_attention_heads=hf["n_head"],
        intermediate_size=hf.get("n_inner") or 4 * hf["n_embd"],
        max_position_embeddings=hf.get("n_positions", 1024),
        position_embedding="learned",
        norm="layernorm",
        norm_eps=hf.get("layer_norm_epsilon", 1e-5),
        activation="gelu",
        attention_bias=True,
        mlp_bias=True,
        tie_word_embeddings=hf.get("tie_word_embeddings", True),
        initializer_range=hf.get("initializer_range", 0.02),
    )
