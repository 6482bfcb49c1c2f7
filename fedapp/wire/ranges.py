"""What a number that a client reports may be.

Scores are fractions unless the metric says otherwise; a new metric that is none (``fedapp.benchmarks``)
gets a line in ``SCORES``, without which the server leaves its rows out.
"""

from __future__ import annotations

import re

import numpy as np

_CORRELATIONS = ("matthews-correlation", "pearson", "spearman")
SCORES = dict.fromkeys((*_CORRELATIONS, "constant-score"), (-1.0, 1.0))
"""Least and largest value of the scores that are no fractions in [0, 1]."""

LARGEST = float(np.finfo(np.float32).max)
"""Of any other number: what is measured is an fp32 number, and sums of such stay finite in fp64."""

SLACK = 1e-6  # a fraction that was summed up in another order may exceed 1 in its last digits

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@/+-]{0,63}")


def is_name(name: str) -> bool:
    """Whether a metric may be called so: letters, digits and signs of ASCII, 64 at most."""
    return _NAME.fullmatch(name) is not None


def score_range(name: str) -> tuple[float, float]:
    """Least and largest value of one of a row's numbers: a loss or a score."""
    return (0.0, LARGEST) if _is_loss(name) else SCORES.get(name, (0.0, 1.0))


def metric_range(name: str) -> tuple[float, float]:
    """Least and largest value of what a routine measures, which may be anything; losses are at least 0."""
    return (0.0 if _is_loss(name) else -LARGEST, LARGEST)


def within(value: float, bounds: tuple[float, float]) -> bool:
    """Whether a number is finite and in a range, but for rounding."""
    return bounds[0] - SLACK <= value <= bounds[1] + SLACK


def _is_loss(name: str) -> bool:
    return name == "loss" or name.endswith("-loss")
