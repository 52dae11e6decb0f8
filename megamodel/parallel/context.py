"""Context parallelism: the ranks of the cp axis share each sequence."""

import torch
from torch import Tensor


def tokens_of_rank(seq_len: int, ranks: int, rank: int, method: str) -> Tensor:
    """Indices, int64 [seq_len / ranks], of the tokens of each sequence that a rank computes.

    Ulysses takes a run of consecutive tokens. The ring takes two, one from each end: of 2 x ranks pieces, rank r has
    pieces r and 2 x ranks - 1 - r, so that under a causal mask every rank has the same work.
    """
    if method == "ulysses":
        return torch.arange(seq_len).chunk(ranks)[rank]
    pieces = torch.arange(seq_len).chunk(2 * ranks)
    return torch.cat((pieces[rank], pieces[2 * ranks - 1 - rank]))
