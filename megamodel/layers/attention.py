"""Causal self-attention through scaled_dot_product_attention, with grouped heads and a cache for generation."""

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megamodel.config import ModelConfig
from megamodel.layers.linear import Linear
from megamodel.layers.rotary import rotate


class Attend(Protocol):
    """Causal attention of queries [B, H, T, C] to keys and values [B, K, T, C], within documents [B, T] if given."""

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, documents: Tensor | None = None, /) -> Tensor:
        """The weighted values [B, H, T, C]."""
        ...


class KVCache:
    """Keys and values of the tokens seen so far, one pair of [B, K, max_tokens, C] buffers a layer."""

    def __init__(
        self, config: ModelConfig, batch: int, max_tokens: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.num_hidden_layers, batch, config.kv_heads, max_tokens, config.size_per_head)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0

    def extend(self, layer: int, k_BKTC: Tensor, v_BKTC: Tensor) -> tuple[Tensor, Tensor]:
        """Append this step's keys and values of one layer; return all of that layer's."""
        end = self.length + k_BKTC.shape[2]
        self.keys[layer, :, :, self.length : end] = k_BKTC
        self.values[layer, :, :, self.length : end] = v_BKTC
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class Attention(nn.Module):
    """Multi-head attention; num_key_value_heads < num_attention_heads shares each key/value head (arXiv:2305.13245)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.size_per_head
        query_width = config.num_attention_heads * self.head_dim
        kv_width = config.kv_heads * self.head_dim
        self.q_proj = Linear(config.hidden_size, query_width, bias=config.attention_bias)
        self.k_proj = Linear(config.hidden_size, kv_width, bias=config.attention_bias)
        self.v_proj = Linear(config.hidden_size, kv_width, bias=config.attention_bias)
        self.o_proj = Linear(query_width, config.hidden_size, bias=config.attention_bias)
        self.attend: Attend = causal_attention

    def forward(
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor] | None,
        cache: KVCache | None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Attend causally within [B, T, D], after the cached tokens if there are any, within documents if given."""
        q_BHTC, k_BKTC, v_BKTC = (self._heads(p(x_BTD)) for p in (self.q_proj, self.k_proj, self.v_proj))
        if rotary is not None:
            q_BHTC, k_BKTC = rotate(q_BHTC, rotary), rotate(k_BKTC, rotary)
        if cache is not None:
            k_BKTC, v_BKTC = cache.extend(self.layer, k_BKTC, v_BKTC)
        y_BHTC = self.attend(q_BHTC, k_BKTC, v_BKTC, documents_BT)
        return self.o_proj(y_BHTC.transpose(1, 2).flatten(2))

    def _heads(self, x_BTD: Tensor) -> Tensor:
        return x_BTD.unflatten(-1, (-1, self.head_dim)).transpose(1, 2)


def causal_attention(q_BHTC: Tensor, k_BKSC: Tensor, v_BKSC: Tensor, documents_BS: Tensor | None = None) -> Tensor:
    """Softmax attention of the last T of S tokens; token t sees the tokens of its document up to itself."""
    new, total = q_BHTC.shape[2], k_BKSC.shape[2]
    grouped = q_BHTC.shape[1] != k_BKSC.shape[1]
    if new == total and documents_BS is None:
        return F.scaled_dot_product_attention(q_BHTC, k_BKSC, v_BKSC, is_causal=True, enable_gqa=grouped)
    # is_causal aligns the mask to the first key; the new tokens are the last ones.
    mask = torch.ones(new, total, dtype=torch.bool, device=q_BHTC.device).tril(total - new)
    if documents_BS is not None:
        mask = (mask & (documents_BS[:, -new:, None] == documents_BS[:, None, :]))[:, None]
    return F.scaled_dot_product_attention(q_BHTC, k_BKSC, v_BKSC, attn_mask=mask, enable_gqa=grouped)
