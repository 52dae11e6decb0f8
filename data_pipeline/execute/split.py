"""Training or validation: decided by a document's identity alone."""

import functools
import hashlib
from fractions import Fraction

from data_pipeline.config import PrepareConfig
from data_pipeline.errors import DataError
from data_pipeline.execute.broken import BrokenRecords
from data_pipeline.read import Document

TRAIN, VALIDATION = "train", "validation"


def set_names(config: PrepareConfig) -> list[str]:
    """The shard sets that a preparation makes."""
    return [TRAIN, VALIDATION] if config.validation_fraction else [TRAIN]


def set_of(document: Document, config: PrepareConfig) -> str:
    """Name the side of the split on which a document falls."""
    fraction = config.validation_fraction
    return VALIDATION if fraction and is_validation(document, fraction, config.split_seed) else TRAIN


def is_validation(document: Document, fraction: float, seed: int) -> bool:
    """Decide the split by a keyed hash of the document's identity: adding files moves no other document."""
    digest = hashlib.blake2b(document.identity.encode(), key=str(seed).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < _limit(fraction)


@functools.cache
def _limit(fraction: float) -> Fraction:
    return Fraction(fraction) * 2**64


def check_split(config: PrepareConfig, train: int, validation: int, broken: BrokenRecords) -> None:
    """DataError when a shard set would be empty, given the documents of each and the records that were none."""
    unread = f" Records that could not be read: {broken.count:,}. {broken.told()}" if broken.count else ""
    if train + validation == 0:
        raise DataError(
            "the corpus is empty: no document with text is left; see the sources, and with `--sample 1000` what the "
            f"cleaning steps reject.{unread}"
        )
    if train == 0 or (config.validation_fraction and validation == 0):
        raise DataError(
            f"validation_fraction={config.validation_fraction} splits {train + validation} documents into {train} for "
            f"training and {validation} for validation; both need at least one: change the fraction or split_seed, "
            f"or add documents.{unread}"
        )
