"""Whole-word masking: some words of each sequence are hidden, all tokens of a word together, to be predicted.

Devlin et al. 2018 (arXiv:1810.04805), with whole words as in the authors' later models: of the chosen tokens 80 %
become [MASK], 10 % another token, 10 % stay. Every draw is a hash of (seed, sample, column).
"""

import numpy as np

from data_pipeline.mixture.draws import below, uniform
from data_pipeline.mixture.token_tables import TokenTables

IGNORED = -100
"""Label of a token that is not to be predicted."""
_MASKED, _REPLACED = 0.8, 0.1


def mask_words(
    ids: np.ndarray, maskable: np.ndarray, tables: TokenTables, rate: float, seed: int, samples: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return (ids to read, labels), both int64 [n, T], of sequences int64 [n, T].

    The expected share of chosen tokens is `rate` of each sequence's maskable ones, but at least one token.

    Args:
        ids: the sequences.
        maskable: bool [n, T]; not the tokens that hold a sequence together, such as [CLS].
        tables: words of the vocabulary.
        rate: share of the tokens to choose.
        seed: seeds the draws.
        samples: sample index of each sequence, int64 [n].
    """
    chosen = choose_words(tables.word_starts(ids), maskable, rate, seed, samples)
    row, column = np.nonzero(chosen)
    labels = np.full_like(ids, IGNORED)
    labels[row, column] = ids[row, column]
    fate = uniform(seed, "mask", samples[row], column)
    ordinary = np.flatnonzero(~tables.special)
    other = ordinary[below(len(ordinary), seed, "mask by", samples[row], column)]
    hidden = np.where(fate < _MASKED, tables.mask, np.where(fate < _MASKED + _REPLACED, other, ids[row, column]))
    masked = ids.copy()
    masked[row, column] = hidden
    return masked, labels


def choose_words(starts: np.ndarray, maskable: np.ndarray, rate: float, seed: int, samples: np.ndarray) -> np.ndarray:
    """Choose words until the share is reached: bool [n, T].

    Words are taken in the order of a draw for each. The one that reaches over the wanted number of tokens is taken with
    the probability that makes this number right on average; a sequence of which none would be taken gives its first.

    Args:
        starts: whether a token is the first of its word, bool [n, T]; so is one behind a token that is not maskable.
        maskable: tokens that belong to words, bool [n, T].
        rate: share of the maskable tokens to choose.
        seed: seeds the draws.
        samples: sample index of each sequence, int64 [n].
    """
    row, column = np.nonzero(maskable)
    if not len(row):
        return np.zeros_like(maskable)
    first = starts[row, column] | (column == 0) | ~maskable[row, column - 1]
    word_of_token = np.cumsum(first) - 1
    sizes = np.bincount(word_of_token)
    word_row, word_column = row[first], column[first]
    counters = samples[word_row], word_column
    order = np.lexsort((uniform(seed, "word", *counters), word_row))
    before = _sums_before(sizes[order], word_row[order])
    room = np.maximum(1.0, rate * np.bincount(row, minlength=len(starts)))[word_row[order]] - before
    taken = np.empty(len(order), bool)
    taken[order] = uniform(seed, "last word", *counters)[order] * sizes[order] < room
    empty = np.bincount(word_row[taken], minlength=len(starts)) == 0
    first_drawn = order[_sums_before(np.ones_like(order), word_row[order]) == 0]
    taken[first_drawn[empty[word_row[first_drawn]]]] = True
    chosen = np.zeros_like(maskable)
    chosen[row, column] = taken[word_of_token]
    return chosen


def _sums_before(sizes: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Sum up the sizes that stand before each one in its row; rows ascend."""
    sums = np.cumsum(sizes) - sizes
    first = np.ones(len(rows), bool)
    first[1:] = rows[1:] != rows[:-1]
    return sums - sums[first][np.cumsum(first) - 1]
