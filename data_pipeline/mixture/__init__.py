"""Seeded order and blending: the batch at a step, as a pure function."""

from data_pipeline.mixture.loader import Batch, Loader
from data_pipeline.mixture.mixture import Mixture, samples_digest

__all__ = ["Batch", "Loader", "Mixture", "samples_digest"]
