"""Weights from what is known of the sources: shares of the tokens, which is what a blend of equal windows takes.

All of it is exact or decimal arithmetic, so that every machine gets the same weights to the last digit.
"""

from collections.abc import Sequence
from decimal import Context, Decimal
from fractions import Fraction

from data_pipeline.shards import ShardSet

_DIGITS = Context(prec=40)


def by_documents(weights: Sequence[float], sources: Sequence[ShardSet]) -> list[Fraction]:
    """Turn shares of the documents into shares of the tokens: a source of longer documents gives more tokens."""
    return [
        Fraction(weight) * Fraction(shards.num_tokens, max(1, shards.num_documents))
        for weight, shards in zip(weights, sources, strict=True)
    ]


def by_temperature(weights: Sequence[float], sizes: Sequence[int], temperature: float) -> list[Fraction]:
    """Make shares proportional to weight * size ** (1 / temperature).

    Temperature 1 keeps the sizes' proportions, a high one comes near to equal shares (T5, arXiv:1910.10683; Arivazhagan
    et al., arXiv:1907.05019). What XLM-R and mT5 call alpha (arXiv:1911.02116, arXiv:2010.11934) is 1 / temperature.
    """
    exponent = _DIGITS.divide(Decimal(1), Decimal(temperature))
    powers = [_DIGITS.power(Decimal(size), exponent) if size else Decimal(0) for size in sizes]
    return [Fraction(weight) * Fraction(power) for weight, power in zip(weights, powers, strict=True)]
