"""MinHash: a few hashes of a document from which its resemblance to others is seen."""

from collections.abc import Sequence

import numpy as np

from data_pipeline.dedup.settings import NearDuplicates


def band_hashes(texts: Sequence[str], near: NearDuplicates) -> np.ndarray:
    """Return uint64 [n, bands]; a document's row depends on nothing but its text and the settings."""
    raise NotImplementedError
