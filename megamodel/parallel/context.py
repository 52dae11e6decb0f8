"""Context parallelism: the ranks of the cp axis share each sequence, and the blocks attend across them."""

from functools import partial

import torch
import torch.distributed as dist
from torch import Tensor

from megamodel.gpt import GPT
from megamodel.layers.attention import Attend
from megamodel.parallel.ring import ring_attention, zigzag
from megamodel.parallel.ulysses import ulysses_attention


def tokens_of_rank(seq_len: int, ranks: int, rank: int, method: str) -> Tensor:
    """Indices, int64 [seq_len / ranks], of the tokens of each sequence that a rank computes.

    Ulysses takes a run of consecutive tokens. The ring takes two, one from each end, so that under a causal mask every
    rank has the same work; seq_len is then a multiple of 2 x ranks.
    """
    tokens = torch.arange(seq_len)
    return tokens.chunk(ranks)[rank] if method == "ulysses" else zigzag(tokens, ranks, rank, dim=0)


def context_attention(group: dist.ProcessGroup, method: str) -> Attend:
    """Causal attention over whole sequences for the ranks of `group`, each with the queries of its `tokens_of_rank`.

    `documents` are those of the whole sequences, in their natural order. Messages cannot be compiled: under
    torch.compile the attention is a break in the graph, so `fullgraph` has to be off.

    Args:
        group: the ranks of the cp axis.
        method: "ring" or "ulysses".
    """
    attention = ulysses_attention if method == "ulysses" else ring_attention
    attend: Attend = torch.compiler.disable(partial(attention, group=group))
    return attend


def apply_context_parallel(model: GPT, group: dist.ProcessGroup, method: str) -> None:
    """Let the blocks of a model, or of a part of one, attend as `context_attention` does; in place."""
    attend = context_attention(group, method)
    for block in model.blocks:
        block.self_attn.attend = attend
