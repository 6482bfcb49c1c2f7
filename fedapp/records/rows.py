"""The rows of a run's files: a score in metrics.jsonl, a message in traffic.jsonl."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fedapp.core.types import JUDGED, LabelCounts
from fedapp.wire.messages import COUNTS, DIGEST, beside_scores

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
        counts: A final model's answers by target (``benchmarks.counts``); empty where nobody said.
        digest: Of a final model; rows with the same one are of the same model. Empty where nobody said.
    """

    server_round: int
    client_id: int
    split: str
    model: str
    moment: str
    num_examples: int | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    counts: LabelCounts = ()
    digest: str = ""

    @classmethod
    def from_json(cls, row: Any) -> ScoreRow:
        """Read a row.

        Raises:
            ValueError: If a key is missing, or a value is of another kind than it should be.
        """
        _check("metrics.jsonl", row, HEAD)
        metrics = {name: value for name, value in row.items() if name not in HEAD}
        counts, digest = metrics.pop(COUNTS, []), metrics.pop(DIGEST, "")
        for name, value in metrics.items():
            if type(value) not in (int, float):
                raise ValueError(f"a row of metrics.jsonl has {name}={value!r}, which must be a number")
        num_examples = metrics.pop("num-examples", None)
        server_round, client_id, split, model, moment = (row[key] for key in HEAD)
        about = (server_round, client_id, split, model, moment, num_examples)
        return cls(*about, metrics, _read_counts(counts, num_examples), str(digest))

    def to_json(self) -> dict[str, Any]:
        """The row as metrics.jsonl holds it."""
        values = (self.server_round, self.client_id, self.split, self.model, self.moment)
        counted = {} if self.num_examples is None else {"num-examples": self.num_examples}
        beside = beside_scores(self.counts, self.digest)
        return {**dict(zip(HEAD, values, strict=True)), **counted, **self.metrics, **beside}


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


@dataclass(frozen=True)
class Spent:
    """What a client's work took, as it said itself.

    Attributes:
        seconds: Wall time of all messages.
        cpu_seconds: Processor time of them, of all threads of its process.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0

    def plus(self, seconds: float, cpu_seconds: float) -> Spent:
        """With another message."""
        return Spent(self.seconds + seconds, self.cpu_seconds + cpu_seconds)


@dataclass
class Told:
    """What clients have told in a run so far.

    Attributes:
        rows: Scores.
        about: What each client says of itself: tasks, numbers of rows and of parameters.
        spent: What its work took.
        traffic: A row for each message.
    """

    rows: list[ScoreRow] = field(default_factory=list)
    about: dict[int, dict[str, Any]] = field(default_factory=dict)
    spent: dict[int, Spent] = field(default_factory=dict)
    traffic: list[TrafficRow] = field(default_factory=list)

    def facts(self) -> dict[str, Any]:
        """What the run's files do not hold, as JSON can."""
        spent = [[client, [one.seconds, one.cpu_seconds]] for client, one in self.spent.items()]
        return {"about": list(self.about.items()), "spent": spent}

    @classmethod
    def of(cls, facts: Mapping[str, Any], metrics: Iterable[Any], traffic: Iterable[Any]) -> Told:
        """What ``facts`` gave, with the rows of metrics.jsonl and traffic.jsonl.

        Raises:
            ValueError: If a row is none.
        """
        rows = [ScoreRow.from_json(row) for row in metrics]
        spent = {client: Spent(*one) for client, one in facts["spent"]}
        scores = [row for row in rows if row.split != "train"]  # a method's own measures
        return cls(scores, dict(facts["about"]), spent, [TrafficRow.from_json(row) for row in traffic])

    def of_honest(self, hostile: Collection[int]) -> list[ScoreRow]:
        """Scores of all clients but the hostile ones."""
        return [row for row in self.rows if row.client_id not in hostile]

    def means(self, server_round: int, hostile: Collection[int]) -> dict[str, float]:
        """Mean over honest clients of the round's newest test scores, for progress displays."""
        newest: dict[int, Mapping[str, float]] = {}
        for row in self.of_honest(hostile):
            if row.server_round == server_round and row.split == "test" and row.model != "base":
                newest[row.client_id] = row.metrics
        if not newest:
            return {}
        names = sorted(set.intersection(*(set(metrics) for metrics in newest.values())) - set(JUDGED))
        return {f"test-{n}": sum(metrics[n] for metrics in newest.values()) / len(newest) for n in names}


def main_metric(rows: Iterable[ScoreRow]) -> str | None:
    """The benchmark's first metric: JSON keeps the order in which it reports them."""
    return next((name for row in rows for name in row.metrics if name not in NOT_METRICS), None)


def payload_by_client(traffic: Iterable[TrafficRow], way: str) -> dict[int, int]:
    """Bytes of payload to or from each client in all rounds."""
    total: dict[int, int] = {}
    for row in traffic:
        if row.direction == way:
            total[row.client_id] = total.get(row.client_id, 0) + row.payload_bytes
    return total


def _read_counts(counts: Any, num_examples: Any) -> LabelCounts:
    """Counts as they were written: as many rows as labels, a column more, every scored row once."""
    whole = isinstance(counts, list) and all(
        isinstance(row, list) and len(row) == len(counts) + 1 and all(type(n) is int and n >= 0 for n in row)
        for row in counts
    )
    if not whole or (counts and sum(map(sum, counts)) != num_examples):
        raise ValueError(f"a row of metrics.jsonl has {COUNTS} that do not count its num-examples rows")
    return tuple(map(tuple, counts))


def _check(file: str, row: Any, kinds: Mapping[str, type]) -> None:
    if not isinstance(row, Mapping):
        raise ValueError(f"a row of {file} is {row!r}, must be an object with {', '.join(kinds)}")
    for key, kind in kinds.items():
        if key not in row:
            raise ValueError(f"a row of {file} lacks {key}")
        if type(row[key]) is not kind:
            wanted = "a whole number" if kind is int else "a text"
            raise ValueError(f"a row of {file} has {key}={row[key]!r}, which must be {wanted}")
