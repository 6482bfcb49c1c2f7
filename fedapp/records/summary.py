"""The table at the end of a run: a row per client, and what the run cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fedapp.records.rows import EVALUATED, main_metric, message_of


@dataclass(frozen=True)
class BestRound:
    """The evaluated round whose models are best on validation data, and what they reach on test data.

    Attributes:
        server_round: The round; the earliest of equals.
        evaluated: How many rounds there were to choose from.
        scores: The metric on the test split after that round, by client.
    """

    server_round: int
    evaluated: int
    scores: Mapping[int, float]


def best_round(rows: Sequence[Mapping[str, Any]], metric: str) -> BestRound | None:
    """Choose a round on validation data alone; the test split has no say.

    Args:
        rows: Rows of metrics.jsonl, of the clients that count.
        metric: By which to choose, and which to report.

    Returns:
        None where there is no choice. To choose from are the rounds after which every client was
        scored on the test split that was so after the last one, so that the result compares with
        the final scores; the validation mean is over the clients that have one in all these rounds.
    """
    ends = [r for r in rows if r["model"] in EVALUATED and r["moment"] == "after" and metric in r]
    found: dict[str, dict[int, dict[int, float]]] = {"validation": {}, "test": {}}
    for row in ends:
        found[row["split"]].setdefault(row["server-round"], {})[row["client-id"]] = float(row[metric])
    validation, test = found["validation"], found["test"]
    clients = set(test[max(test)]) if test else set()
    rounds = sorted(n for n in set(validation) & set(test) if clients <= set(test[n]))
    steady = set.intersection(*(set(validation[n]) for n in rounds)) & clients if rounds else set()
    if len(rounds) < 2 or not steady:
        return None
    # Rounded, as equal scores summed in another order may differ in the last bit.
    chosen = max(rounds, key=lambda n: round(math.fsum(validation[n][client] for client in steady), 9))
    return BestRound(chosen, len(rounds), {client: test[chosen][client] for client in sorted(clients)})


def summarise(
    rows: Sequence[Mapping[str, Any]],
    about: Mapping[int, Mapping[str, Any]],
    traffic: Sequence[Mapping[str, Any]],
    hostile: Sequence[int] = (),
) -> dict[str, Any]:
    """Put the test scores of the base, of the first local training and of the end side by side.

    Args:
        rows: Rows of metrics.jsonl.
        about: What each client says of itself.
        traffic: Rows of traffic.jsonl.
        hostile: Clients that the run made hostile; they have a row and count in no mean.

    Returns:
        ``{"columns": […], "rows": [[…]], "footer": "…"}``, values ready to print, and
        ``"parameters"``: how many numbers each client trains, by client.
    """
    tests = [row for row in rows if row["split"] == "test"]
    metric = main_metric(tests)
    columns = ["client", "tasks", "train", "test", "base", "round 1", "final", "sent", "received"]
    clients = sorted({row["client-id"] for row in rows} | set(about))
    scores = {client: _scores([r for r in tests if r["client-id"] == client], metric) for client in clients}
    table = []
    for client in clients:
        facts = about.get(client, {})
        sent, received = (_bytes(traffic, way, client) for way in ("up", "down"))
        cells = [_shown(value) for value in scores[client]]
        tasks = ", ".join(map(str, facts.get("tasks", [])))
        table.append(
            [client, tasks, facts.get("train"), facts.get("test"), *cells, size(sent), size(received)]
        )
    scores = {client: values for client, values in scores.items() if client not in hostile}
    whole = _scored_throughout(scores)
    means = [_shown(_mean([scores[client][column] for client in whole])) for column in range(3)]
    total = [size(_bytes(traffic, way)) for way in ("up", "down")]
    table.append(["mean", "", None, None, *means, *total])
    notes = [_about_scores(metric, scores), *_hostile_note(hostile), *_means_note(scores, whole)]
    honest = [row for row in rows if row["client-id"] not in hostile]
    notes += [*_left_out(traffic), *_best_note(honest, metric)]
    trained = {client: facts["parameters"] for client, facts in about.items() if "parameters" in facts}
    return {
        "columns": columns,
        "rows": table,
        "footer": "\n".join(notes),
        "parameters": dict(sorted(trained.items())),
    }


def _about_scores(metric: str | None, scores: Mapping[int, Sequence[float | None]]) -> str:
    finals = [values[2] for values in scores.values() if values[2] is not None]
    worst = f"; worst client {_shown(min(finals))}" if finals else ""
    return f"{metric or 'score'} on each client's own test set, in %{worst}; bytes are payload of all rounds"


def hostile_clients(config: Mapping[str, Any]) -> list[int]:
    """Clients that a run's config makes hostile; none in runs from before there was such a setting."""
    node = config.get("hostile") or {}
    return sorted(set(node.get("clients") or ()))


def name_clients(clients: Sequence[int]) -> str:
    """``client 3`` or ``clients 1, 3``."""
    return f"client{'s' * (len(clients) != 1)} {', '.join(map(str, clients))}"


def _hostile_note(hostile: Sequence[int]) -> list[str]:
    return [f"made hostile, and in no mean: {name_clients(hostile)}"] if hostile else []


def _scored_throughout(scores: Mapping[int, Sequence[float | None]]) -> list[int]:
    """Clients that miss no score that any other has: only their means compare column by column."""
    columns = [c for c in range(3) if any(values[c] is not None for values in scores.values())]
    return [client for client, values in scores.items() if all(values[c] is not None for c in columns)]


def _means_note(scores: Mapping[int, Sequence[float | None]], whole: Sequence[int]) -> list[str]:
    rest = [client for client in scores if client not in whole]
    finals = [values[2] for values in scores.values() if values[2] is not None]
    if not rest:
        return []
    note = f"means without {name_clients(rest)}, not scored in every column"
    return [f"{note}; mean of all {len(finals)} final scores {_shown(_mean(finals))}"]


def _best_note(rows: Sequence[Mapping[str, Any]], metric: str | None) -> list[str]:
    best = best_round(rows, metric) if metric else None
    if best is None:
        return []
    where = f"round {best.server_round} of the {best.evaluated} evaluated"
    return [f"best on validation data: {where}, test mean {_shown(_mean(list(best.scores.values())))}"]


def _left_out(traffic: Sequence[Mapping[str, Any]]) -> list[str]:
    """Clients that were asked in a round and of which no reply was used."""
    rounds: dict[int, list[str]] = {}
    used = {message_of(row) for row in traffic if row["direction"] == "up"}
    for row in traffic:
        if row["direction"] == "down" and message_of(row) not in used:
            when = f"{row['server-round']}" + " (evaluation)" * (row["phase"] == "evaluate")
            rounds.setdefault(row["client-id"], []).append(when)
    parts = [f"client {client} in round {', '.join(rounds[client])}" for client in sorted(rounds)]
    return [f"left out: {'; '.join(parts)}"] if parts else []


def _scores(rows: Sequence[Mapping[str, Any]], metric: str | None) -> list[float | None]:
    """Score of the base, after the first local training, and at the end."""

    def first(model: str, moment: str) -> float | None:
        if metric is None:
            return None
        found = [
            row[metric] for row in rows if (row["model"], row["moment"]) == (model, moment) and metric in row
        ]
        return found[0] if found else None

    return [first("base", "before"), first("own", "after"), first("final", "after")]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _bytes(traffic: Sequence[Mapping[str, Any]], way: str, client: int | None = None) -> int:
    return sum(
        row["payload-bytes"]
        for row in traffic
        if row["direction"] == way and (client is None or row["client-id"] == client)
    )


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def size(count: float) -> str:
    """Bytes for people, in powers of 1,000."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
