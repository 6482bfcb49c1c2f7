"""Figures on the scores of one run: by round and client, against bytes, and the weights of mixing."""

from __future__ import annotations

from typing import Any

import altair as alt

from fedapp.records.table import format_bytes
from fedapp.reporting.comparison.curves import Point, curve, kind_of
from fedapp.reporting.page.charts import bytes_axis, lines, percent_axis, round_axis, spec_of
from fedapp.reporting.page.figure import Figure, percent
from fedapp.reporting.page.reading import RunFiles

LOCAL_WEIGHT = "local-weight"
MEAN = "mean of clients"


def curves(run: RunFiles) -> Figure | None:
    """The score of each client on its own test rows by round, and their mean."""
    points, kind = _points(run)
    if len(points) < 2:  # scores of one round are no course: the table of clients has them
        return None
    rows = [
        {"round": point.server_round, "client": name, "score": score}
        for point in points
        for name, score in [(MEAN, percent(point.mean)), *_by_client(point)]
    ]
    fields = ["client:N", "round:Q", "score:Q"]
    axes = round_axis(points[-1].server_round), percent_axis(run.metric)
    chart = lines(rows, *axes, "client", fields, bold=MEAN)
    first, last = points[0], points[-1]
    worst = min(last.scores, key=lambda client: (last.scores[client], client))
    said = (
        f"{run.metric} by round of {len(last.scores)} clients, {kind}. Their mean goes from "
        f"{percent(first.mean):g} % in round {first.server_round} to {percent(last.mean):g} % in round "
        f"{last.server_round}; lowest at the end is client {worst} with {percent(last.scores[worst]):g} %."
    )
    note = f"On each client's own test rows, {kind}. Round 0 is the base model."
    clients = sorted({client for point in points for client in point.scores})
    table = [
        [point.server_round, percent(point.mean), *(_shown(point.scores.get(client)) for client in clients)]
        for point in points
    ]
    columns = ["round", MEAN, *(f"client {client}" for client in clients)]
    return Figure("curves", f"{run.metric} by round and client", said, note, spec_of(chart), columns, table)


def bytes_curve(run: RunFiles) -> Figure | None:
    """The mean score against the payload that all clients had sent and received by then."""
    points, kind = _points(run)
    if len(points) < 2:
        return None
    rows = [
        {"bytes": point.payload_bytes, "score": percent(score), "which": which, "round": point.server_round}
        for point in points
        for which, score in (("mean", point.mean), ("worst client", min(point.scores.values())))
    ]
    fields = ["which:N", "round:Q", alt.Tooltip("bytes:Q", format=".3~s"), "score:Q"]
    chart = lines(
        rows,
        bytes_axis("payload of all clients until then, bytes"),
        percent_axis(run.metric),
        "which",
        fields,
    )
    last = points[-1]
    said = (
        f"{run.metric} against payload bytes. After {format_bytes(last.payload_bytes)} the mean is "
        f"{percent(last.mean):g} %, the worst client {percent(min(last.scores.values())):g} %."
    )
    table = [
        [p.server_round, p.payload_bytes, percent(p.mean), percent(min(p.scores.values()))] for p in points
    ]
    note = f"Sent and received, all messages; scores {kind}."
    columns = ["round", "bytes", "mean", "worst client"]
    return Figure("bytes", f"{run.metric} against bytes", said, note, spec_of(chart), columns, table)


def weights(run: RunFiles) -> Figure | None:
    """How much of its own parameters each client kept when it mixed, by round."""
    # Training alone: an evaluation mixes too, and says by which weight.
    rows: list[dict[str, Any]] = [
        {
            "round": row.server_round,
            "client": f"client {row.client_id}",
            "weight": float(row.metrics[LOCAL_WEIGHT]),
        }
        for row in run.result.rows
        if row.split == "train" and row.model == "own" and LOCAL_WEIGHT in row.metrics
    ]
    if not rows:
        return None
    rows.sort(key=lambda row: (int(str(row["client"]).split()[1]), row["round"]))
    scale = alt.Scale(domain=[0, 1])
    axis = alt.Y("weight:Q", title="share of the own parameters", scale=scale)
    last = max(int(row["round"]) for row in rows)
    chart = lines(rows, round_axis(last), axis, "client", ["client:N", "round:Q", "weight:Q"])
    clients = list(dict.fromkeys(str(row["client"]) for row in rows))
    found = {(row["round"], row["client"]): float(row["weight"]) for row in rows}
    rounds = sorted({int(row["round"]) for row in rows})
    table = [[n, *(_weight(found.get((n, client))) for client in clients)] for n in rounds]
    mean = sum(found.values()) / len(found)
    said = (
        f"Share of its own parameters in each client's mix, by round, of {len(clients)} clients; "
        f"{mean:.2f} on average, from {min(found.values()):.2f} to {max(found.values()):.2f}."
    )
    note = "1: the client goes on with its own parameters; 0: with what it received."
    title = "Weights of mixing by client and round"
    return Figure("weights", title, said, note, spec_of(chart), ["round", *clients], table)


def _points(run: RunFiles) -> tuple[list[Point], str]:
    kind = kind_of([run.result])
    return curve(run.result, kind), kind


def _by_client(point: Point) -> list[tuple[str, float]]:
    return [(f"client {client}", percent(score)) for client, score in sorted(point.scores.items())]


def _shown(score: float | None) -> float | None:
    return None if score is None else percent(score)


def _weight(weight: float | None) -> float | None:
    return None if weight is None else round(weight, 3)
