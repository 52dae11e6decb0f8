"""Seeded order and blending: the batch at a step, as a pure function."""

from data_pipeline.mixture.loader import Batch, Loader
from data_pipeline.mixture.mixture import Mixture, samples_digest
from data_pipeline.mixture.segments import Segment

__all__ = ["Batch", "Loader", "Mixture", "Segment", "samples_digest"]
