"""What an exported format has to do."""

from typing import Any, NamedTuple, Protocol

import numpy as np


class Batch(NamedTuple):
    """Documents that go into one file."""

    ids: np.ndarray
    """Their ids, one document after another."""
    ends: np.ndarray
    """Where each ends in `ids`: int64, rising."""


class Target(Protocol):
    """A format: files of documents, and an index.json that lists them."""

    def encode(self, batch: Batch, number: int) -> tuple[str, list[bytes]]:
        """Return the name of a file and its bytes, in pieces. DataError when a document is too long for it."""

    def index(self) -> dict[str, Any]:
        """Return what index.json says of the files encoded so far."""
