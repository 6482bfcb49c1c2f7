"""The columns of a run's rows: which are metrics and which say whose."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOT_METRICS = {"server-round", "client-id", "split", "model", "moment", "num-examples", "loss"}
EVALUATED = ("current", "final")
"""What metrics.jsonl calls the models that an evaluation scores, after a round and after the last."""


def message_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Which message a row of traffic.jsonl is about: its round, client and phase."""
    return tuple(row.get(key) for key in ("server-round", "client-id", "phase"))


def main_metric(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The benchmark's first metric: JSON keeps the order in which it reports them."""
    return next((name for row in rows for name in row if name not in NOT_METRICS), None)
