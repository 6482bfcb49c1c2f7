"""The table at the end of a run: a row per client, and what the run cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOT_METRICS = {"server-round", "client-id", "split", "model", "moment", "num-examples", "loss"}


def summarise(
    rows: Sequence[Mapping[str, Any]],
    about: Mapping[int, Mapping[str, Any]],
    traffic: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """Put the test scores of the base, of the first local training and of the end side by side.

    Args:
        rows: Rows of metrics.jsonl.
        about: What each client says of itself.
        traffic: Rows of traffic.jsonl.

    Returns:
        ``{"columns": […], "rows": [[…]], "footer": "…"}``, values ready to print.
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
    means = [_shown(_mean(column)) for column in zip(*scores.values(), strict=True)] if scores else ["–"] * 3
    total = [size(_bytes(traffic, way)) for way in ("up", "down")]
    table.append(["mean", "", None, None, *means, *total])
    finals = [values[2] for values in scores.values() if values[2] is not None]
    worst = f"; worst client {_shown(min(finals))}" if finals else ""
    footer = (
        f"{metric or 'score'} on each client's own test set, in %{worst}; bytes are payload of all rounds"
    )
    return {"columns": columns, "rows": table, "footer": footer}


def main_metric(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """The benchmark's first metric: JSON keeps the order in which it reports them."""
    return next((name for row in rows for name in row if name not in NOT_METRICS), None)


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
