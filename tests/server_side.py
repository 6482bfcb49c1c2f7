"""Server halves without a server: moments, what a strategy may know of a run, and forged messages."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

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


def raw_records(text: bytes, data: bytes | None = None) -> RecordDict:
    """Records of a message with any text and any bytes in the place of the arrays."""
    records = RecordDict({"fedapp-message": ConfigRecord({"size": len(text), "json": zlib.compress(text)})})
    if data is not None:
        blob = Array(dtype="uint8", shape=(len(data),), stype="numpy.ndarray", data=data)
        records["fedapp-arrays"] = ArrayRecord({"blob": blob})
    return records


def body(facts: Any, manifest: Any = (), texts: Any = None) -> bytes:
    """The text of a message."""
    parts = {"facts": facts, "manifest": list(manifest), "texts": {} if texts is None else texts}
    return json.dumps(parts).encode("ascii")


ROW = {"split": "test", "model": "own", "moment": "after", "num-examples": 20, "loss": 1.5, "accuracy": 0.5}
"""A row of scores as a client sends it."""


def done_facts(client_id: int = 1, **changed: Any) -> dict[str, Any]:
    """The facts of an honest reply in round 1, some of them changed."""
    facts = {
        "client-id": client_id,
        "server-round": 1,
        "num-examples": 60,
        "metrics": {"train-loss": 1.25},
        "rows": [ROW],
        "seconds": 0.5,
        "about": {"train": 60, "validation": 6, "test": 20, "parameters": 8, "tasks": ["t"]},
    }
    return {**facts, **{name.replace("_", "-"): value for name, value in changed.items()}}
