"""The rows of a run's files: a score in metrics.jsonl, a message in traffic.jsonl."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedapp.core.types import JUDGED

EVALUATED = ("current", "final")
"""What metrics.jsonl calls the models that an evaluation scores, after a round and after the last."""

HEAD = {"server-round": int, "client-id": int, "split": str, "model": str, "moment": str}
MESSAGE = {
    "server-round": int,
    "client-id": int,
    "phase": str,
    "direction": str,
    "payload-bytes": int,
    "wire-bytes": int,
}
NOT_METRICS = {*HEAD, "num-examples", "loss", *JUDGED}


@dataclass(frozen=True)
class ScoreRow:
    """A row of metrics.jsonl: how a model of a client does on a split.

    Attributes:
        server_round: The round, from 1.
        client_id: Whose model and data.
        split: ``train``, ``validation`` or ``test``.
        model: ``base``, ``own``, ``aggregated``, ``mixed``, ``current`` or ``final``.
        moment: ``before`` or ``after`` the round's work.
        num_examples: How many examples it is over; None where the row does not say.
        metrics: All other numbers, in the order reported: ``loss``, ``accuracy``, …
    """

    server_round: int
    client_id: int
    split: str
    model: str
    moment: str
    num_examples: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_json(cls, row: Any) -> ScoreRow:
        """Read a row.

        Raises:
            ValueError: If a key is missing, or a value is of another kind than it should be.
        """
        _check("metrics.jsonl", row, HEAD)
        metrics = {name: value for name, value in row.items() if name not in HEAD}
        for name, value in metrics.items():
            if type(value) not in (int, float):
                raise ValueError(f"a row of metrics.jsonl has {name}={value!r}, which must be a number")
        num_examples = metrics.pop("num-examples", None)
        server_round, client_id, split, model, moment = (row[key] for key in HEAD)
        return cls(server_round, client_id, split, model, moment, num_examples, metrics)

    def to_json(self) -> dict[str, Any]:
        """The row as metrics.jsonl holds it."""
        values = (self.server_round, self.client_id, self.split, self.model, self.moment)
        counted = {} if self.num_examples is None else {"num-examples": self.num_examples}
        return {**dict(zip(HEAD, values, strict=True)), **counted, **self.metrics}


@dataclass(frozen=True)
class TrafficRow:
    """A row of traffic.jsonl: one message.

    Attributes:
        server_round: The round, from 1.
        client_id: To or from whom.
        phase: What the message is for: ``open``, ``train`` or ``evaluate``.
        direction: ``down`` to the client, ``up`` from it.
        payload_bytes: Size of the arrays' values and the texts.
        wire_bytes: Size of the whole message.
    """

    server_round: int
    client_id: int
    phase: str
    direction: str
    payload_bytes: int
    wire_bytes: int

    @classmethod
    def from_json(cls, row: Any) -> TrafficRow:
        """Read a row.

        Raises:
            ValueError: If a key is missing, or a value is of another kind than it should be.
        """
        _check("traffic.jsonl", row, MESSAGE)
        if row["direction"] not in ("down", "up"):
            raise ValueError(f"a row of traffic.jsonl has direction={row['direction']!r}, must be down or up")
        return cls(*(row[key] for key in MESSAGE))

    def to_json(self) -> dict[str, Any]:
        """The row as traffic.jsonl holds it."""
        values = (self.server_round, self.client_id, self.phase, self.direction)
        return dict(zip(MESSAGE, (*values, self.payload_bytes, self.wire_bytes), strict=True))

    @property
    def message(self) -> tuple[int, int, str]:
        """Which message it is, or which one it answers: round, client and phase."""
        return self.server_round, self.client_id, self.phase


def main_metric(rows: Iterable[ScoreRow]) -> str | None:
    """The benchmark's first metric: JSON keeps the order in which it reports them."""
    return next((name for row in rows for name in row.metrics if name not in NOT_METRICS), None)


def _check(file: str, row: Any, kinds: Mapping[str, type]) -> None:
    if not isinstance(row, Mapping):
        raise ValueError(f"a row of {file} is {row!r}, must be an object with {', '.join(kinds)}")
    for key, kind in kinds.items():
        if key not in row:
            raise ValueError(f"a row of {file} lacks {key}")
        if type(row[key]) is not kind:
            wanted = "a whole number" if kind is int else "a text"
            raise ValueError(f"a row of {file} has {key}={row[key]!r}, which must be {wanted}")
