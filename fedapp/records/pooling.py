"""Scores over the test rows of all clients together, and how far chance in these rows moves them.

A mean over clients weighs a client of 6 rows like one of 152; a pooled score weighs rows. Both stand side by
side, under their names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedapp.benchmarks.counts import FROM_COUNTS, RIGHT_OR_WRONG, ROW_MEANS
from fedapp.records.rows import ScoreRow

RESAMPLES = 2000
"""Bootstrap samples: an end of an interval moves by about 0.1 points with another seed."""
COVERED = (2.5, 97.5)
"""Percentiles between which 95 % of the samples lie."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Pooled:
    """What final models reach on the test rows of all clients together.

    Attributes:
        score: The metric over all rows; None where it does not follow from what clients said.
        interval: 95 % of a bootstrap over rows; None where the counts to draw from are not known.
        macro_f1: Of the labels, over all rows; None where answers were not counted by target.
        num_examples: How many rows; None where a client did not say how many it has.
        one_model: Whether all clients have the same final model; None where one did not say.
    """

    score: float | None
    interval: Interval | None
    macro_f1: float | None
    num_examples: int | None
    one_model: bool | None

    def to_json(self) -> dict[str, Any]:
        """As summary.json holds it."""
        return {
            "pooled-score": self.score,
            "pooled-interval": None if self.interval is None else list(self.interval),
            "pooled-macro-f1": self.macro_f1,
            "test-rows": self.num_examples,
            "one-model": self.one_model,
        }


def pool(rows: Sequence[ScoreRow], metric: str | None) -> Pooled:
    """Score the test rows of all clients together.

    Args:
        rows: Of each client's final model on its test split.
        metric: What to report.

    Counts give accuracy, macro-F1 and Matthews' correlation exactly; a metric that is a mean over rows is
    weighted by numbers of rows; of any other there is no pooled score.
    """
    counts, metric = _counts(rows), metric or ""
    known = bool(rows) and all(row.num_examples for row in rows)
    digests = {row.digest for row in rows}
    return Pooled(
        score=pooled_score(rows, metric),
        interval=pooled_interval(rows, metric),
        macro_f1=None if counts is None else float(FROM_COUNTS["macro-f1"](counts.sum(axis=0))),
        num_examples=sum(row.num_examples or 0 for row in rows) if known else None,
        one_model=None if not rows or "" in digests else len(digests) == 1,
    )


def pooled_score(rows: Sequence[ScoreRow], metric: str) -> float | None:
    """A metric over the rows of all clients, None where it does not follow from what they said."""
    counts = _counts(rows)
    if counts is not None and metric in FROM_COUNTS:
        return float(FROM_COUNTS[metric](counts.sum(axis=0)))
    if metric not in ROW_MEANS or not _scored(rows, metric):
        return None
    total = sum(row.num_examples or 0 for row in rows)
    return math.fsum(row.metrics[metric] * (row.num_examples or 0) for row in rows) / total


def pooled_interval(rows: Sequence[ScoreRow], metric: str, seed: int = 0) -> Interval | None:
    """95 % interval of a pooled score: rows are drawn anew with replacement, as many as there are.

    Drawing rows is drawing counts: a multinomial over the cells of target and answer, or over right and
    wrong where answers are either.

    Args:
        rows: Of each client's final model on its test split.
        metric: What is reported.
        seed: Of the draws; the same rows and seed give the same interval.

    Source: the percentile bootstrap, https://doi.org/10.1201/9780429246593
    """
    rng, counts = np.random.default_rng(seed), _counts(rows)
    if counts is not None and metric in FROM_COUNTS:
        whole = counts.sum(axis=0)
        drawn = rng.multinomial(whole.sum(), whole.ravel() / whole.sum(), size=RESAMPLES)
        return _between(FROM_COUNTS[metric](drawn.reshape(RESAMPLES, *whole.shape)))
    if metric not in RIGHT_OR_WRONG or not _scored(rows, metric):
        return None
    total = sum(row.num_examples or 0 for row in rows)
    right = sum(round(row.metrics[metric] * (row.num_examples or 0)) for row in rows)
    return _between(rng.binomial(total, right / total, size=RESAMPLES) / total)


def mean_interval(rows: Sequence[ScoreRow], metric: str, seed: int = 0) -> Interval | None:
    """95 % interval of the mean over clients: each client's rows are drawn anew by themselves.

    Args and source as of ``pooled_interval``; the clients themselves are not drawn.
    """
    rng, counts = np.random.default_rng(seed), _counts(rows)
    if counts is not None and metric in FROM_COUNTS:
        drawn = [
            rng.multinomial(one.sum(), one.ravel() / one.sum(), size=RESAMPLES).reshape(-1, *one.shape)
            for one in counts
        ]
        return _between(np.mean([FROM_COUNTS[metric](one) for one in drawn], axis=0))
    if metric not in RIGHT_OR_WRONG or not _scored(rows, metric):
        return None
    shares = [
        rng.binomial(row.num_examples or 1, min(max(row.metrics[metric], 0.0), 1.0), size=RESAMPLES)
        / (row.num_examples or 1)
        for row in rows
    ]
    return _between(np.mean(shares, axis=0))


def _between(samples: np.ndarray) -> Interval:
    low, high = np.percentile(samples, COVERED)
    return float(low), float(high)


def _scored(rows: Sequence[ScoreRow], metric: str) -> bool:
    """Whether all clients have the metric, and said over how many rows."""
    return bool(rows) and all(row.num_examples and metric in row.metrics for row in rows)


def _counts(rows: Sequence[ScoreRow]) -> np.ndarray | None:
    """``[clients, labels, labels + 1]``; None where a client did not say, or counted other labels."""
    if not rows or not all(row.counts and row.num_examples for row in rows):
        return None
    if len({len(row.counts) for row in rows}) > 1:
        return None
    return np.array([row.counts for row in rows], np.int64)


def mean_of_intervals(intervals: Sequence[Interval | None]) -> Interval | None:
    """The mean ends of the intervals of several seeds; None where one has none."""
    known = [interval for interval in intervals if interval is not None]
    if not known or len(known) < len(intervals):
        return None
    return math.fsum(low for low, _ in known) / len(known), math.fsum(high for _, high in known) / len(known)
