"""What a run comes to, in numbers: scores as fractions, sizes in bytes; ``table`` makes them readable."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedapp.records.judgement import warnings_of
from fedapp.records.pooling import Pooled, pool
from fedapp.records.rows import EVALUATED, ScoreRow, Spent, TrafficRow, main_metric, payload_by_client

SCORES = {
    "base-score": ("base", "before"),
    "first-round-score": ("own", "after"),
    "final-score": ("final", "after"),
}
"""Of which model, and when: each score of a client, on its test split."""

Scores = dict[str, float | None]


@dataclass(frozen=True)
class BestRound:
    """The evaluated round whose models are best on validation data, and what they reach on test data.

    Attributes:
        server_round: The round; the earliest of equals.
        evaluated: How many rounds there were to choose from.
        validation: Mean of the metric on validation data after that round.
        scores: The metric on the test split after that round, by client.
    """

    server_round: int
    evaluated: int
    validation: float
    scores: Mapping[int, float]

    def to_json(self) -> dict[str, Any]:
        """As summary.json holds it."""
        return {
            "server-round": self.server_round,
            "evaluated-rounds": self.evaluated,
            "mean-validation-score": self.validation,
            "mean-test-score": mean(list(self.scores.values())),
            "test-scores": {str(client): score for client, score in self.scores.items()},
        }


@dataclass(frozen=True)
class ClientSummary:
    """What a run comes to for one client.

    Attributes:
        client_id: The client.
        about: What it says of itself: tasks, numbers of rows and of parameters.
        scores: A fraction or None for each of ``SCORES``.
        sent_bytes, received_bytes: Payload of all rounds.
        final_row: Of the final model on the test split, None where it was not scored.
        validation: The final model's score on validation data, None where it was not scored.
        spent: What its work took; None where nobody said.
    """

    client_id: int
    about: Mapping[str, Any]
    scores: Scores
    sent_bytes: int
    received_bytes: int
    final_row: ScoreRow | None = None
    validation: float | None = None
    spent: Spent | None = None

    def to_json(self) -> dict[str, Any]:
        """As summary.json holds it; null is what the client did not say or was not scored on."""
        return {
            "client-id": self.client_id,
            "tasks": list(self.about.get("tasks", [])),
            **{f"{split}-rows": self.about.get(split) for split in ("train", "validation", "test")},
            "parameters": self.about.get("parameters"),
            **self.scores,
            "sent-bytes": self.sent_bytes,
            "received-bytes": self.received_bytes,
            "seconds": None if self.spent is None else round(self.spent.seconds, 3),
            "cpu-seconds": None if self.spent is None else round(self.spent.cpu_seconds, 3),
        }


@dataclass(frozen=True)
class RunSummary:
    """What a run comes to.

    Attributes:
        metric: What the scores are; None where nobody was scored.
        clients: Every client, hostile ones too, by id.
        hostile: Clients that the run made hostile; they are in no mean and never the worst.
        left_out: Messages (round, client, phase) of which no reply was used, by time.
        best: The round that is best on validation data; None where there is nothing to choose from.
        sent_bytes, received_bytes: Payload of all clients in all rounds.
    """

    metric: str | None
    clients: Sequence[ClientSummary]
    hostile: Sequence[int]
    left_out: Sequence[tuple[int, int, str]]
    best: BestRound | None
    sent_bytes: int
    received_bytes: int

    def scores(self, name: str) -> dict[int, float]:
        """One of ``SCORES`` by client: of the honest clients that have it."""
        found = {one.client_id: one.scores[name] for one in self._honest()}
        return {client: score for client, score in found.items() if score is not None}

    @property
    def final_rows(self) -> list[ScoreRow]:
        """Of the honest clients' final models on their test splits."""
        return [one.final_row for one in self._honest() if one.final_row]

    @property
    def pooled(self) -> Pooled:
        """What the final models reach on the test rows of all clients together."""
        return pool(self.final_rows, self.metric)

    @property
    def cpu_seconds(self) -> float | None:
        """Processor time of all clients; None where one did not say it."""
        times = [one.spent.cpu_seconds for one in self.clients if one.spent]
        return math.fsum(times) if times and all(times) and len(times) == len(self.clients) else None

    def to_json(self) -> dict[str, Any]:
        """The content of summary.json."""
        whole = self._scored_throughout()
        finals = self.scores("final-score")
        worst = min(finals, key=lambda client: (finals[client], client)) if finals else None
        left_out = [
            {"client-id": client, "server-round": server_round, "phase": phase}
            for server_round, client, phase in self.left_out
        ]
        return {
            "metric": self.metric,
            "clients": [one.to_json() for one in self.clients],
            "mean": {
                "client-ids": [one.client_id for one in whole],
                **{name: mean([one.scores[name] for one in whole]) for name in SCORES},
            },
            "final": {
                "num-clients": len(finals),
                "mean-score": mean(list(finals.values())),
                "worst-client-id": worst,
                "worst-score": None if worst is None else finals[worst],
                **self.pooled.to_json(),
                "mean-validation-score": mean([one.validation for one in self._honest()]),
            },
            "best-round": None if self.best is None else self.best.to_json(),
            "total": {
                "sent-bytes": self.sent_bytes,
                "received-bytes": self.received_bytes,
                "cpu-seconds": self.cpu_seconds,
            },
            "hostile-clients": list(self.hostile),
            "left-out": left_out,
            "warnings": self.warnings(),
        }

    def warnings(self) -> list[str]:
        """A line for each way in which final models say nothing of their prompts, and of which clients."""
        return warnings_of(
            {one.client_id: one.final_row for one in self._honest() if one.final_row}, self.metric
        )

    def _honest(self) -> list[ClientSummary]:
        return [one for one in self.clients if one.client_id not in self.hostile]

    def _scored_throughout(self) -> list[ClientSummary]:
        """Clients that miss no score that any other has: only their means compare column by column."""
        names = [name for name in SCORES if self.scores(name)]
        return [one for one in self._honest() if all(one.scores[name] is not None for name in names)]


def summarise(
    rows: Sequence[ScoreRow],
    about: Mapping[int, Mapping[str, Any]],
    traffic: Sequence[TrafficRow],
    hostile: Sequence[int] = (),
    metric: str | None = None,
    spent: Mapping[int, Spent] | None = None,
) -> RunSummary:
    """Put the test scores of the base, of the first local training and of the end side by side.

    Args:
        rows: Rows of metrics.jsonl.
        about: What each client says of itself.
        traffic: Rows of traffic.jsonl.
        hostile: Clients that the run made hostile.
        metric: What to report; None for the benchmark's first metric.
        spent: What each client's work took.
    """
    honest = [row for row in rows if row.client_id not in hostile]
    measured = sorted(
        (row for row in honest if row.split != "train"), key=lambda row: row.split
    )  # test first
    metric = metric or main_metric(measured)
    sent, received = (payload_by_client(traffic, way) for way in ("up", "down"))
    own: dict[int, list[ScoreRow]] = {client: [] for client in about}
    for row in rows:
        own.setdefault(row.client_id, []).append(row)
    clients = [
        ClientSummary(
            client,
            about.get(client, {}),
            _scores(own[client], metric),
            sent.get(client, 0),
            received.get(client, 0),
            *_finals(own[client], metric),
            (spent or {}).get(client),
        )
        for client in sorted(own)
    ]
    return RunSummary(
        metric,
        clients,
        tuple(hostile),
        _left_out(traffic),
        best_round(honest, metric) if metric else None,
        sum(sent.values()),
        sum(received.values()),
    )


def best_round(rows: Sequence[ScoreRow], metric: str) -> BestRound | None:
    """Choose a round on validation data alone; the test split has no say.

    Args:
        rows: Rows of metrics.jsonl, of the clients that count.
        metric: By which to choose, and which to report.

    Returns:
        None where there is no choice. To choose from are the rounds after which every client was
        scored on the test split that was so after the last one, so that the result compares with
        the final scores; the validation mean is over the clients that have one in all these rounds.
    """
    ends = [r for r in rows if r.model in EVALUATED and r.moment == "after" and metric in r.metrics]
    found: dict[str, dict[int, dict[int, float]]] = {"validation": {}, "test": {}}
    for row in ends:
        if row.split in found:
            found[row.split].setdefault(row.server_round, {})[row.client_id] = float(row.metrics[metric])
    validation, test = found["validation"], found["test"]
    clients = set(test[max(test)]) if test else set()
    rounds = sorted(n for n in set(validation) & set(test) if clients <= set(test[n]))
    steady = set.intersection(*(set(validation[n]) for n in rounds)) & clients if rounds else set()
    if len(rounds) < 2 or not steady:
        return None
    # Rounded, as equal scores summed in another order may differ in the last bit.
    chosen = max(rounds, key=lambda n: round(math.fsum(validation[n][client] for client in steady), 9))
    reached = math.fsum(validation[chosen][client] for client in steady) / len(steady)
    return BestRound(
        chosen, len(rounds), reached, {client: test[chosen][client] for client in sorted(clients)}
    )


def hostile_clients(config: Mapping[str, Any]) -> list[int]:
    """Clients that a run's config makes hostile; none in runs from before there was such a setting."""
    node = config.get("hostile") or {}
    return sorted(set(node.get("clients") or ()))


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of the values that are known; None of none."""
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _scores(rows: Sequence[ScoreRow], metric: str | None) -> Scores:
    """A client's score of the base, after the first local training, and at the end."""
    tests = [row for row in rows if row.split == "test" and metric in row.metrics]
    return {
        name: next((row.metrics[str(metric)] for row in tests if (row.model, row.moment) == kind), None)
        for name, kind in SCORES.items()
    }


def _finals(rows: Sequence[ScoreRow], metric: str | None) -> tuple[ScoreRow | None, float | None]:
    """A client's row of the final model on test data, and that model's score on validation data."""
    kept = [row for row in rows if row.model == "final" and str(metric) in row.metrics]
    by_split = {row.split: row for row in kept}
    checked = by_split.get("validation")
    return by_split.get("test"), None if checked is None else float(checked.metrics[str(metric)])


def _left_out(traffic: Sequence[TrafficRow]) -> list[tuple[int, int, str]]:
    """Messages to clients of which no reply was used."""
    used = {row.message for row in traffic if row.direction == "up"}
    return [row.message for row in traffic if row.direction == "down" and row.message not in used]
