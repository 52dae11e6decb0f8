"""Documents within a sequence: which one each token belongs to, and where in it the token stands."""

import torch
from torch import Tensor


def document_numbers(ids_BT: Tensor, eos_id: int) -> Tensor:
    """For each token the number of documents that ended before it in its sequence: int64 [B, T].

    The end-of-document token is the last one of its document.
    """
    ends = (ids_BT == eos_id).long()
    return ends.cumsum(1) - ends


def restarted_positions(documents_BT: Tensor) -> Tensor:
    """Positions [B, T] that start from 0 at each document."""
    positions = torch.arange(documents_BT.shape[1], device=documents_BT.device).expand_as(documents_BT)
    starts = torch.ones_like(documents_BT, dtype=torch.bool)
    starts[:, 1:] = documents_BT[:, 1:] != documents_BT[:, :-1]
    return positions - torch.where(starts, positions, 0).cummax(1).values
