"""The decoder, whole or a run of its blocks. It knows no process group, no mesh and no engine; `parallel/` cuts it from
outside."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from megamodel.config import ModelConfig
from megamodel.layers.attention import Attention, KVCache
from megamodel.layers.linear import Linear
from megamodel.layers.loss import HeadLoss
from megamodel.layers.mlp import build_mlp
from megamodel.layers.norm import build_norm
from megamodel.layers.rotary import rotary_table


@dataclass(frozen=True)
class Part:
    """Consecutive blocks of a model, with the embeddings before the first and the head after the last."""

    blocks: range
    first: bool = True
    last: bool = True


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
        self,
        x_BTD: Tensor,
        rotary: tuple[Tensor, Tensor] | None = None,
        cache: KVCache | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """Map the residual stream [B, T, D] to itself."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rotary, cache, documents_BT)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class GPT(nn.Module):
    """GPT-2 (Radford et al. 2019) or Llama 3 (arXiv:2407.21783), as the configuration says.

    Args:
        config: the sizes and choices.
        compute_dtype: type of the activations; the weights keep theirs (see `Linear`).
        part: the part of the model to build; None: all of it. Names are those of the whole model.
    """

    def __init__(
        self, config: ModelConfig, compute_dtype: torch.dtype = torch.float32, part: Part | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.part = part or Part(range(config.num_hidden_layers))
        if self.part.first or (self.part.last and config.tie_word_embeddings):
            self.embed_tokens = Embedding(config.vocab_size, config.hidden_size)
        if self.part.first and config.position_embedding == "learned":
            self.embed_positions = Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleDict({str(layer): Block(config, layer) for layer in self.part.blocks})
        if self.part.last:
            self.norm = build_norm(config)
            if not config.tie_word_embeddings:
                self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
            self.head_loss = HeadLoss()

    @property
    def blocks(self) -> list[Block]:
        """The blocks of this part, in order."""
        return [block for block in self.layers.values() if isinstance(block, Block)]

    def forward(
        self,
        inputs: Tensor,
        targets_BT: Tensor | None = None,
        cache: KVCache | None = None,
        positions: Tensor | None = None,
        documents_BT: Tensor | None = None,
    ) -> Tensor:
        """With targets: the fp32 sum of cross-entropy over targets that are not -100. Without: fp32 logits [B, T, V].

        A part without the head gives its hidden states [B, T, D], and one without the embeddings takes them.

        Args:
            inputs: token ids [B, T], or hidden states.
            targets_BT: the tokens to predict.
            cache: the ids follow the cached tokens, and the cache grows by them.
            positions: of the tokens, [T] or [B, T]; None: they count from the first, or from the end of the cache.
            documents_BT: number of each token's document; None: one document a sequence.
        """
        x_BTD = self._hidden(inputs, cache, positions, documents_BT)
        if not self.part.last:
            return x_BTD
        x_BTD = self.norm(x_BTD)
        head_VD = self.embed_tokens.weight if self.config.tie_word_embeddings else self.lm_head.weight
        if targets_BT is None:
            return F.linear(x_BTD, head_VD.to(x_BTD.dtype)).float()
        return self.head_loss(x_BTD, head_VD, targets_BT)

    def _hidden(
        self, inputs: Tensor, cache: KVCache | None, positions: Tensor | None, documents_BT: Tensor | None
    ) -> Tensor:
        past = cache.length if cache is not None else 0
        if positions is None:
            positions = torch.arange(past, past + inputs.shape[1], device=inputs.device)
        x_BTD = self._embed(inputs, positions) if self.part.first else inputs
        rotary = None
        if self.config.position_embedding == "rope":
            cos, sin = rotary_table(positions, self.config.size_per_head, self.config.rope_theta)
            rotary = cos.to(self.compute_dtype), sin.to(self.compute_dtype)
        for block in self.blocks:
            x_BTD = block(x_BTD, rotary, cache, documents_BT)
        if cache is not None:
            cache.length += inputs.shape[1]
        return x_BTD

    def _embed(self, ids_BT: Tensor, positions: Tensor) -> Tensor:
        x_BTD = self.embed_tokens(ids_BT)
        if self.config.position_embedding == "learned":
            x_BTD = x_BTD + self.embed_positions(positions)
        return x_BTD.to(self.compute_dtype)
