"""Fill-in-the-middle: the same tokens in another order, as many, a function of (seed, sample, place)."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipeline.mixture.fim import SHORTEST_TEXT, FillInTheMiddle
from data_pipeline.mixture.masking import count_targets, ids_of
from data_pipeline.tokenizer import train_tokenizer
from data_pipeline.tokenizer.settings import ModelKind, TrainTokenizer

EOS, PRE, MID, SUF = range(4)
ALWAYS = FillInTheMiddle(rate=1.0, spm_rate=0.5, prefix=PRE, middle=MID, suffix=SUF, eos_id=EOS, seed=11)


def rearranged(fim: FillInTheMiddle, rows: np.ndarray, samples: np.ndarray | None = None) -> np.ndarray:
    out = rows.copy()
    fim(out, np.arange(len(rows)) if samples is None else samples)
    return out


def texts_of(row: np.ndarray) -> list[np.ndarray]:
    """What stands between end-of-document tokens, empty ones too."""
    ends = [-1, *np.flatnonzero(ids_of(row) == EOS).tolist(), len(row)]
    return [row[begin + 1 : end] for begin, end in pairwise(ends)]


def in_order(text: np.ndarray) -> tuple[list[int], str]:
    """The text as it was, without its last three tokens, and the order it is in now."""
    ids = ids_of(text).tolist()
    assert ids[0] == PRE and ids.count(PRE) == ids.count(MID) == ids.count(SUF) == 1
    suffix, middle = ids.index(SUF), ids.index(MID)
    assert suffix < middle
    if suffix == 1:
        # Behind <middle> stand prefix and middle; the suffix belongs behind both.
        return ids[middle + 1 :] + ids[2:middle], "spm"
    return ids[1:suffix] + ids[middle + 1 :] + ids[suffix + 1 : middle], "psm"


def random_rows(n: int, width: int, seed: int = 0, share: float = 0.02) -> np.ndarray:
    """Rows in which each token tells its column, cut by ends of documents."""
    rng = np.random.default_rng(seed)
    rows = np.tile(np.arange(10, 10 + width), (n, 1))
    rows[rng.random(rows.shape) < share] = EOS
    return rows


def test_every_text_comes_back_without_its_last_three_tokens():
    rows = random_rows(50, 300)
    orders = []
    for before, after in zip(rows, rearranged(ALWAYS, rows), strict=True):
        for was, now in zip(texts_of(before), texts_of(after), strict=True):
            if len(was) < SHORTEST_TEXT:
                np.testing.assert_array_equal(now, was)
                continue
            ids, order = in_order(now)
            # Where prefix or suffix is empty both orders read alike; a text of distinct tokens has one rotation.
            assert ids == was[:-3].tolist()
            orders.append(order)
    assert {"psm", "spm"} == set(orders) and 0.35 < orders.count("spm") / len(orders) < 0.65


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.sampled_from([EOS, 10, 11, 12, ~EOS, ~10]), min_size=12, max_size=12), max_size=6))
def test_no_row_changes_its_length_its_ends_or_its_targets(rows: list[list[int]]):
    before = np.array(rows, np.int64).reshape(-1, 12)
    after = rearranged(ALWAYS, before)
    np.testing.assert_array_equal(count_targets(after), count_targets(before))
    np.testing.assert_array_equal(ids_of(after) == EOS, ids_of(before) == EOS)
    np.testing.assert_array_equal(after < 0, before < 0)


def test_texts_outside_the_loss_stay_as_they_are():
    row = np.arange(10, 60)
    row[20], row[40] = EOS, EOS
    row[21:40] ^= -1
    row[41] ^= -1
    (after,) = rearranged(ALWAYS, row[None])
    np.testing.assert_array_equal(after[21:40], row[21:40])
    assert after[41] == ~PRE, "what began outside the loss still does"
    assert in_order(after[41:])[0] == np.arange(51, 57).tolist()


def test_a_row_is_a_function_of_its_sample():
    rows = np.tile(random_rows(1, 400), (64, 1))
    samples = np.arange(1000, 1064)
    sometimes = replace(ALWAYS, rate=0.5)
    together = rearranged(sometimes, rows, samples)
    assert len({row.tobytes() for row in together}) == 64
    for order in (np.arange(64)[::-1], np.random.default_rng(0).permutation(64)[:7]):
        np.testing.assert_array_equal(rearranged(sometimes, rows[order], samples[order]), together[order])
    np.testing.assert_array_equal(rearranged(sometimes, rows[:1], samples[:1]), together[:1])
    assert (rearranged(replace(sometimes, seed=12), rows, samples) != together).any(axis=1).all()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_rates_hold(rate: float):
    rows = np.tile(np.r_[np.arange(10, 59), EOS], (1000, 10))
    fim = replace(ALWAYS, rate=rate, spm_rate=0.25)
    after = rearranged(fim, rows).reshape(10_000, 50)
    changed = after[:, 0] == PRE
    assert abs(changed.mean() - rate) < 4 * (rate * (1 - rate) / 10_000) ** 0.5
    spm = after[changed, 1] == SUF
    # An empty prefix, one cut of about forty-seven twice at 0, looks like the other order.
    assert abs(spm.mean() - (0.25 + 0.75 * 2 / 47)) < 4 * (0.25 / changed.sum()) ** 0.5


def test_the_cuts_are_anywhere():
    rows = np.tile(np.r_[np.arange(10, 33), EOS], (20_000, 1))
    after = rearranged(replace(ALWAYS, spm_rate=0.0), rows)
    suffix, middle = np.argmax(after == SUF, axis=1), np.argmax(after == MID, axis=1)
    prefix_lengths = np.bincount(suffix - 1, minlength=21)
    suffix_lengths = np.bincount(middle - suffix - 1, minlength=21)
    # Of two uniform cuts of 0..20 the smaller is k in (2 * (20 - k) + 1) of 441 cases.
    expected = 20_000 * (2 * (20 - np.arange(21)) + 1) / 441
    for counts in (prefix_lengths, suffix_lengths):
        assert len(counts) == 21
        assert ((counts - expected) ** 2 / expected).sum() < 60, "chi square with 20 degrees of freedom"


def test_nothing_is_done_to_no_rows():
    assert rearranged(ALWAYS, np.empty((0, 9), np.int64)).shape == (0, 9)
    assert (rearranged(replace(ALWAYS, rate=1e-9), random_rows(5, 100)) == random_rows(5, 100)).all()


@pytest.mark.parametrize("model", ["byte_bpe", "sentencepiece_bpe", "sentencepiece_unigram"])
def test_tokenizers_are_trained_with_its_tokens(model: ModelKind):
    """Which text never becomes."""
    tokens = ["<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>"]
    text = "def f(x):\n    return x  # <|fim_prefix|> is text here\n"
    tokenizer = train_tokenizer([text * 50, "hello world " * 50], 400, model=model, special_tokens=tokens)
    ids = [tokenizer.special_tokens[token] for token in tokens]
    assert len({*ids, tokenizer.eos_id}) == 4
    (encoded,) = tokenizer.encode_batch([text])
    assert not np.isin(encoded, ids).any() and tokenizer.decode(encoded) == text


def test_special_tokens_that_cannot_be_are_refused():
    for fields, message in (
        ({"model": "wordpiece", "special_tokens": ["<a>"]}, "not for model: wordpiece"),
        ({"special_tokens": ["<a>", "<a>"]}, "names a token twice"),
        ({"special_tokens": [""]}, "at least 1 character"),
    ):
        with pytest.raises(ValueError, match=message):
            TrainTokenizer.model_validate({"kind": "train", "vocab_size": 400, **fields})
