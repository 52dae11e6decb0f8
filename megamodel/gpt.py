"""The decoder, whole. It knows no process group, no mesh and no engine; `parallel/` cuts it from outside."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megamodel.config import ModelConfig
from megamodel.layers.attention import Attention, KVCache
from megamodel.layers.linear import Linear
from megamodel.layers.loss import head_cross_entropy
from megamodel.layers.mlp import build_mlp
from megamodel.layers.norm import build_norm
from megamodel.layers.rotary import rotary_table


class Embedding(nn.Module):
    """A table [rows, D] looked up by id."""

    def __init__(self, rows: int, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(rows, size))

    def forward(self, ids: Tensor) -> Tensor:
        """Rows for the ids, in the table's own type."""
        return F.embedding(ids, self.weight)


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.input_layernorm = build_norm(config)
        self.self_attn = Attention(config, layer)
        self.post_attention_layernorm = build_norm(config)
        self.mlp = build_mlp(config)

    def forward(
        self, x_BTD: Tensor, rotary: tuple[Tensor, Tensor] | None = None, cache: KVCache | None = None
    ) -> Tensor:
        """Map the residual stream [B, T, D] to itself."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rotary, cache)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class GPT(nn.Module):
    """GPT-2 (Radford et al. 2019) or Llama 3 (arXiv:2407.21783), as the configuration says.

    Args:
        config: the sizes and choices.
        compute_dtype: type of the activations; the weights keep theirs (see `Linear`).
    """

    def __init__(self, config: ModelConfig, compute_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        if config.position_embedding == "learned":
            self.embed_positions = Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.num_hidden_layers))
        self.norm = build_norm(config)
        if not config.tie_word_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)

    def forward(self, ids_BT: Tensor, targets_BT: Tensor | None = None, cache: KVCache | None = None) -> Tensor:
        """With targets: the fp32 sum of cross-entropy over targets that are not -100. Without: fp32 logits [B, T, V].

        With a cache the ids follow the cached tokens, and the cache grows by them.
        """
        x_BTD = self._hidden(ids_BT, cache)
        head_VD = self.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight
        if targets_BT is None:
            return F.linear(x_BTD, head_VD.to(x_BTD.dtype)).float()
        return head_cross_entropy(x_BTD.flatten(0, 1), head_VD, targets_BT.flatten())

    def _hidden(self, ids_BT: Tensor, cache: KVCache | None) -> Tensor:
        past = cache.length if cache is not None else 0
        positions_T = torch.arange(past, past + ids_BT.shape[1], device=ids_BT.device)
        x_BTD = self.embed_tokens(ids_BT)
        rotary = None
        if self.config.position_embedding == "learned":
            x_BTD = x_BTD + self.embed_positions(positions_T)
        else:
            cos, sin = rotary_table(positions_T, self.config.size_per_head, self.config.rope_theta)
            rotary = cos.to(self.compute_dtype), sin.to(self.compute_dtype)
        x_BTD = x_BTD.to(self.compute_dtype)
        for block in self.layers:
            x_BTD = block(x_BTD, rotary, cache)
        if cache is not None:
            cache.length += ids_BT.shape[1]
        return self.norm(x_BTD)
