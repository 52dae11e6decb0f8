"""Tokens that a model reads but is not asked to predict, without a second array beside the tokens.

A row of seq_len + 1 tokens gives inputs row[:-1] and targets row[1:]. A token that is no target is stored as its
complement ~id = -id - 1: negative, so that the loss can tell it, and the id is still there for the inputs.
"""

import numpy as np


def ids_of(tokens: np.ndarray) -> np.ndarray:
    """Return the ids of tokens, targets or not, in the same shape."""
    return np.where(tokens < 0, ~tokens, tokens)


def mask(tokens: np.ndarray, where: np.ndarray) -> None:
    """Make the tokens at `where` (bool, the shape of `tokens`) no targets, in place; those that were none stay so."""
    tokens[where & (tokens >= 0)] ^= -1


def count_targets(rows: np.ndarray) -> np.ndarray:
    """Count the targets of rows [n, seq_len + 1]: int64 [n]. The first token of a row is never one."""
    return np.count_nonzero(rows[:, 1:] >= 0, axis=1)
