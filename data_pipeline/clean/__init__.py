"""One step a module: a document becomes a cleaner document, or is rejected with its reason."""

from data_pipeline.clean.cleaner import Cleaner
from data_pipeline.clean.settings import CleaningStep
from data_pipeline.clean.step import Rejected, Step, StepSettings

__all__ = ["Cleaner", "CleaningStep", "Rejected", "Step", "StepSettings"]
