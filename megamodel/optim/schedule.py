"""Learning-rate schedules as pure functions of the step: the factor by which the peak rate is multiplied."""

import math


def warmup(step: int, warmup_steps: int) -> float:
    """Linear rise: step 1 gets 1/warmup_steps, step warmup_steps gets 1."""
    return min(1.0, step / warmup_steps) if warmup_steps else 1.0


def cosine(step: int, total_steps: int, warmup_steps: int, min_lr_ratio: float) -> float:
    """Warm-up, then half a cosine that reaches min_lr_ratio at the last step (arXiv:1608.03983, without restarts)."""
    if step <= warmup_steps:
        return warmup(step, warmup_steps)
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return min_lr_ratio + (1 - min_lr_ratio) * 0.5 * (1 + math.cos(math.pi * progress))


def wsd(step: int, total_steps: int, warmup_steps: int, decay_steps: int, min_lr_ratio: float) -> float:
    """Warm-up, constant, then linear decay over the last decay_steps to min_lr_ratio (arXiv:2404.06395)."""
    remaining = max(0, total_steps - step) / decay_steps
    return min(warmup(step, warmup_steps), min_lr_ratio + (1 - min_lr_ratio) * min(1.0, remaining))
