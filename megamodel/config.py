"""What a model is: its sizes and the few choices that make it GPT-2, Llama 3, or something between."""

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_core import PydanticCustomError


class ModelConfig(BaseModel):
    """A decoder-only transformer. GPT-2 and Llama 3 are two settings of the same fields."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    vocab_size: PositiveInt
    """Rows of the embedding table; at least the tokenizer's number of tokens."""
    hidden_size: PositiveInt
    """Width of the residual stream (d_model)."""
    num_hidden_layers: PositiveInt
    """Number of transformer blocks."""
    num_attention_heads: PositiveInt
    """Query heads in each block."""
    num_key_value_heads: PositiveInt | None = None
    """Key/value heads in each block; fewer than query heads: grouped-query attention. Unset: as many as query heads."""
    head_dim: PositiveInt | None = None
    """Width of one head. Unset: hidden_size / num_attention_heads."""
    intermediate_size: PositiveInt
    """Width of the MLP's hidden layer."""
    max_position_embeddings: PositiveInt = 2048
    """The longest sequence the model is made for; the size of the table when positions are learned."""
    position_embedding: Literal["rope", "learned"] = "rope"
    """How positions enter: rotary (Llama) or a learned table (GPT-2)."""
    rope_theta: PositiveFloat = 500000.0
    """Base of the rotary frequencies (Llama 3: 500000; Llama 2: 10000). Used when position_embedding is rope."""
    norm: Literal["rmsnorm", "layernorm"] = "rmsnorm"
    """Normalisation before attention, before the MLP and at the end."""
    norm_eps: PositiveFloat = 1e-5
    """The constant added to the variance in every norm."""
    activation: Literal["swiglu", "gelu"] = "swiglu"
    """The MLP: swiglu (gate, up and down projections) or gelu (tanh form as in GPT-2; up and down projections)."""
    attention_bias: bool = False
    """Biases on the query, key, value and output projections."""
    mlp_bias: bool = False
    """Biases on the MLP's projections."""
    tie_word_embeddings: bool = False
    """Use the embedding table as the output head."""
    initializer_range: PositiveFloat = Field(default=0.02, lt=1.0)
    """Standard deviation of the initial weights; projections into the residual stream: divided by sqrt(2 * layers)."""

    @model_validator(mode="after")
    def _shapes_fit(self, info: ValidationInfo) -> Self:
        """Refuse shapes that no GPT can have, each under its field's name, unless the context allows misfits."""
        misfits = () if (info.context or {}).get("allow_misfits") else tuple(self.misfits())
        if misfits:
            raise ValidationError.from_exception_data(
                type(self).__name__,
                [
                    {
                        "type": PydanticCustomError("misfit", "{problem}", {"problem": problem}),
                        "loc": (field,),
                        "input": getattr(self, field),
                    }
                    for field, problem in misfits
                ],
            )
        return self

    def misfits(self) -> Iterator[tuple[str, str]]:
        """Yield each field whose value does not fit the others', and why."""
        heads, kv_heads = self.num_attention_heads, self.kv_heads
        if self.head_dim is None and self.hidden_size % heads:
            candidates = {1, *range(max(1, heads - 1024), heads + 1024)}
            divisors = [n for n in candidates if self.hidden_size % n == 0]
            near = sorted(sorted(divisors, key=lambda n: abs(n - heads))[:2])
            yield (
                "num_attention_heads",
                f"{heads} does not divide hidden_size={self.hidden_size}; "
                f"the nearest that do: {', '.join(map(str, near))} (or set head_dim)",
            )
        elif self.position_embedding == "rope" and self.size_per_head % 2:
            field = "head_dim" if self.head_dim else "num_attention_heads"
            yield field, f"rotary positions need an even head_dim, this makes it {self.size_per_head}"
        if heads % kv_heads:
            near = [n for n in range(1, min(heads, 1024) + 1) if heads % n == 0]
            yield (
                "num_key_value_heads",
                f"{kv_heads} does not divide num_attention_heads={heads}; these do: {', '.join(map(str, near))}",
            )

    @property
    def kv_heads(self) -> int:
        """Key/value heads, resolved."""
        return self.num_key_value_heads or self.num_attention_heads

    @property
    def size_per_head(self) -> int:
        """Width of one head, resolved."""
        return self.head_dim or self.hidden_size // self.num_attention_heads
