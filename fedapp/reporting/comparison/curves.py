"""Scores over rounds and over the bytes that had crossed the network by then."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedapp.records.results import RunResult
from fedapp.records.rows import EVALUATED

EVALUATIONS, TRAINED = "evaluated after the round", "after local training"
"""Which models a curve is of: what a client would use, or what its local training ended with."""


@dataclass(frozen=True)
class Point:
    """How a run stands after a round.

    Attributes:
        server_round: The round; 0 is the base model, before the first one.
        payload_bytes: Sent and received by all clients up to then.
        scores: The metric on test data, by honest client that was scored.
    """

    server_round: int
    payload_bytes: int
    scores: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Over the clients that were scored."""
        return statistics.fmean(self.scores.values())


def kind_of(runs: Sequence[RunResult]) -> str:
    """Which curve all of these runs have: of evaluations if each has two at least, or of local training."""
    if all(len(_rounds(run, EVALUATIONS)) > 1 for run in runs):
        return EVALUATIONS
    return TRAINED if all(_rounds(run, TRAINED) for run in runs) else EVALUATIONS


def curve(run: RunResult, kind: str) -> list[Point]:
    """The run's points by round, the base model first where it was scored.

    Args:
        run: A finished run.
        kind: ``EVALUATIONS`` or ``TRAINED``; the latter ends with the final models too.
    """
    spent = bytes_by_round(run)
    rounds = _rounds(run, kind)
    if kind == TRAINED and run.scores:
        last = max(row.server_round for row in run.rows)
        rounds = {**rounds, last: run.scores}
    points = [Point(0, spent.get(0, 0), run.base)] if run.base else []
    for number in sorted(rounds):
        until = sum(size for when, size in spent.items() if when <= number)
        points.append(Point(number, until, rounds[number]))
    return points


def bytes_by_round(run: RunResult) -> dict[int, int]:
    """Payload of all messages of each round, both ways."""
    spent: dict[int, int] = {}
    for row in run.traffic:
        spent[row.server_round] = spent.get(row.server_round, 0) + row.payload_bytes
    return spent


def bytes_to_reach(points: Sequence[Point], target: float) -> int | None:
    """Payload bytes until the mean score is as high as the target; None if it never is.

    Args:
        points: Of one run, by round.
        target: A fraction.
    """
    return next((point.payload_bytes for point in points if point.mean >= target), None)


def score_within(points: Sequence[Point], max_bytes: int) -> float | None:
    """Mean score at the last round that ends within so many payload bytes; None if none does."""
    within = [point.mean for point in points if point.payload_bytes <= max_bytes]
    return within[-1] if within else None


def _rounds(run: RunResult, kind: str) -> dict[int, Mapping[int, float]]:
    """The metric on test data by round and client."""
    metric, found = str(run.summary.metric), dict[int, dict[int, float]]()
    models = EVALUATED if kind == EVALUATIONS else ("own",)
    for row in run.rows:
        counted = row.split == "test" and row.moment == "after" and row.model in models
        if counted and metric in row.metrics and row.client_id not in run.summary.hostile:
            found.setdefault(row.server_round, {})[row.client_id] = float(row.metrics[metric])
    return dict(found)
