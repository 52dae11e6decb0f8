"""The learning rate of a step."""

from launcher.config import CosineSchedule, RunConfig
from megamodel.optim import schedule


def lr_at(step: int, config: RunConfig) -> float:
    """Learning rate of step `step` (from 1) under the run's schedule."""
    total, settings = config.train.steps, config.optimizer.schedule
    if isinstance(settings, CosineSchedule):
        factor = schedule.cosine(step, total, settings.warmup_steps, settings.min_lr_ratio)
    else:
        factor = schedule.wsd(step, total, settings.warmup_steps, settings.decay_steps, settings.min_lr_ratio)
    return config.optimizer.lr * factor
