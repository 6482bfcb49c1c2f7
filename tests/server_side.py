"""Server halves without a server: moments, and what a strategy may know of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fedapp.core.method import Moment, RunFacts, TaskFacts

FIRST = Moment(1, "train")
TRAIN = Moment(2, "train")
EVALUATE = Moment(2, "evaluate")
OPEN = Moment(0, "open")


@dataclass
class Told:
    """What a strategy has told of its run."""

    warnings: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)


def run_facts(
    adapter: Mapping[str, Any] | None = None, public: Any = None, told: Told | None = None
) -> RunFacts:
    """Facts of a run that nobody serves."""
    told = told or Told()
    return RunFacts(
        num_clients=4,
        num_rounds=9,
        base_fingerprint="base",
        task=lambda: TaskFacts("task", "1", (), adapter or {}),
        public=public,
        warn=told.warnings.append,
        record=lambda name, row: told.rows.append(dict(row)),
    )


def begin(strategy: Any, public: Any = None) -> Told:
    """Let a strategy begin such a run."""
    told = Told()
    strategy.begin(run_facts(public=public, told=told))
    return told
