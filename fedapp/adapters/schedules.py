"""The size of a round's steps."""

from __future__ import annotations

import math

from fedapp.session import TrainConfig


def rate(config: TrainConfig, step: int, total: int) -> float:
    """Share of the peak step size at a step (from 0): linear warm-up, then the schedule."""
    warmup = math.ceil(config.warmup_ratio * total)
    if config.schedule == "cosine":  # Source: I2CL's code, which multiplies both factors
        return min((step + 1) / max(warmup, 1), 1.0) * (1 + math.cos(math.pi * step / total)) / 2
    if step < warmup:
        return (step + 1) / warmup
    if config.schedule == "linear":
        return (total - step) / max(total - warmup, 1)
    return 1.0
