"""Figures on several runs together: means by round, scores against bytes, clients, differences."""

from __future__ import annotations

import statistics
from typing import Any

import altair as alt

from fedapp.records.table import format_bytes
from fedapp.reporting.comparison.curves import Point, curve
from fedapp.reporting.comparison.groups import Group
from fedapp.reporting.comparison.rows import Comparison
from fedapp.reporting.page.charts import (
    COLOURS,
    MOST_SERIES,
    WIDTH,
    bytes_axis,
    lines,
    name_axis,
    percent_axis,
    round_axis,
    spec_of,
)
from fedapp.reporting.page.figure import Cell, Figure, percent


def means_by_round(comparison: Comparison) -> Figure | None:
    """The mean over clients by round, a line for each configuration."""
    means = _means(comparison)
    rows = _points(means)
    if max(map(len, means.values()), default=0) < 2:  # scores of one round are no course
        return None
    last = max(int(row["round"]) for row in rows)
    chart = lines(
        rows,
        round_axis(last),
        percent_axis(comparison.metric),
        "configuration",
        ["configuration:N", "round:Q", "score:Q"],
    )
    ends = ", ".join(f"{label} {percent(points[-1][2]):g} %" for label, points in means.items())
    said = f"Mean {comparison.metric} over clients by round. At the end: {ends}."
    note = f"Mean over clients and seeds, {comparison.curve}. Round 0 is the base model."
    table: list[list[Cell]] = [
        [label, number, percent(score)] for label, points in means.items() for number, _, score in points
    ]
    columns = ["configuration", "round", "mean"]
    title = f"Mean {comparison.metric} by round"
    return Figure("means", title, said, note, spec_of(chart), columns, table)


def pareto(comparison: Comparison) -> Figure | None:
    """The mean score against payload bytes, and the front: what no other point beats in both."""
    means = _means(comparison)
    rows = _points(means)
    if not rows:
        return None
    fields = ["configuration:N", "round:Q", alt.Tooltip("bytes:Q", format=".3~s"), "score:Q"]
    axis = bytes_axis("payload of all clients until then, bytes")
    drawn = lines(rows, axis, percent_axis(comparison.metric), "configuration", fields)
    best = front([(row["bytes"], row["score"]) for row in rows])
    steps = [{"bytes": size, "score": score} for size, score in best]
    line = alt.Chart({"values": steps}).encode(x=axis, y=percent_axis(comparison.metric))
    drawn = line.mark_line(interpolate="step-after", color="gray", strokeWidth=6, opacity=0.3) + drawn
    on_front = sorted((row for row in rows if (row["bytes"], row["score"]) in best), key=_by_bytes)
    # With so many configurations that hover alone names them, those on the front have numbers.
    numbered = on_front if len(means) > MOST_SERIES else []
    if numbered:
        drawn += _numbers(numbered, axis, percent_axis(comparison.metric))
    said = f"Mean {comparison.metric} against payload bytes. On the Pareto front: " + "; ".join(
        f"{row['configuration']} in round {row['round']}, {format_bytes(row['bytes'])}, {row['score']:g} %"
        for row in on_front[:8]
    )
    note = (
        f"Mean over clients and seeds, {comparison.curve}. The wide grey line is the Pareto front: nothing "
        f"reached as much with fewer bytes.{_legend_of(numbered)}"
    )
    table: list[list[Cell]] = [
        [row["configuration"], row["round"], row["bytes"], row["score"], "yes" if row in on_front else ""]
        for row in rows
    ]
    columns = ["configuration", "round", "bytes", "mean", "on the front"]
    title = f"{comparison.metric} against bytes"
    return Figure("pareto", title, f"{said}.", note, spec_of(drawn), columns, table)


def _numbers(rows: list[dict[str, Any]], x: alt.X, y: alt.Y) -> alt.Chart:
    """A number above each point, in their order."""
    values = [{**row, "number": str(n)} for n, row in enumerate(rows, start=1)]
    base = alt.Chart({"values": values}).encode(x=x, y=y, text="number:N")
    return base.mark_text(dy=-10, fontWeight="bold", fontSize=13)


def _legend_of(rows: list[dict[str, Any]]) -> str:
    """Whose points they are, a sentence behind others; nothing without any."""
    named = "; ".join(f"{n}: {row['configuration']}" for n, row in enumerate(rows, start=1))
    return f" On it: {named}." if rows else ""


def front(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (bytes, score) of which none other has a higher score with as few bytes, by bytes."""
    found: list[tuple[float, float]] = []
    for size, score in sorted(set(points), key=_cheapest_best):
        if not found or score > found[-1][1]:
            found.append((size, score))
    return found


def _by_bytes(row: dict[str, Any]) -> float:
    return float(row["bytes"])


def _cheapest_best(point: tuple[float, float]) -> tuple[float, float]:
    return point[0], -point[1]


def clients(comparison: Comparison) -> Figure | None:
    """The final score of each client on its own rows, and each configuration's mean."""
    rows: list[dict[str, Any]] = [
        {"configuration": group.label, "client": f"client {client}, seed {run.seed}", "score": percent(score)}
        for group in comparison.groups
        for run in group.runs
        for client, score in sorted(run.scores.items())
    ]
    labels = [group.label for group in comparison.groups]
    x = alt.X("score:Q", title=f"{comparison.metric}, %", scale=alt.Scale(zero=False, nice=True))
    y, height = name_axis("configuration", labels)
    base = alt.Chart({"values": rows}, width=WIDTH, height=height).encode(y=y)
    dots = base.mark_point(filled=True, size=45, opacity=0.8, color=COLOURS[0]).encode(
        x=x, tooltip=["configuration:N", "client:N", "score:Q"]
    )
    ticks = base.mark_tick(color=COLOURS[1], thickness=3, size=18).encode(x=alt.X("mean(score):Q"))
    scores = {label: [row["score"] for row in rows if row["configuration"] == label] for label in labels}
    said = f"Final {comparison.metric} of each client, from lowest to highest: " + "; ".join(
        f"{label} {min(found):g} to {max(found):g} %" for label, found in scores.items()
    )
    note = "A disc is one client of one seed, an upright line the mean."
    table: list[list[Cell]] = [[row["configuration"], row["client"], row["score"]] for row in rows]
    title = f"Final {comparison.metric} of each client"
    columns = ["configuration", "client", "score"]
    return Figure("clients", title, f"{said}.", note, spec_of(dots + ticks), columns, table)


def differences(comparison: Comparison) -> Figure | None:
    """Each configuration minus the reference, with its interval."""
    rows = [
        {
            "configuration": label,
            "difference": percent(one.mean),
            "low": percent((one.interval or (one.mean, one.mean))[0]),
            "high": percent((one.interval or (one.mean, one.mean))[1]),
            "p": None if one.corrected is None else round(one.corrected, 4),
            "pairs": one.pairs,
        }
        for label, one in comparison.differences.items()
    ]
    if not rows:
        return None
    labels = [str(row["configuration"]) for row in rows]
    y, height = name_axis("configuration", labels)
    base = alt.Chart({"values": rows}, width=WIDTH, height=height).encode(
        y=y,
        tooltip=["configuration:N", "difference:Q", "low:Q", "high:Q", "p:Q", "pairs:Q"],
    )
    title = f"{comparison.metric} minus the reference's, points"
    axis = alt.X("low:Q", title=title, axis=alt.Axis(tickCount=8))  # by default one a bar: they run together
    ends = base.mark_rule(color=COLOURS[0], strokeWidth=2).encode(x=axis, x2="high:Q")
    dots = base.mark_point(filled=True, color=COLOURS[0], size=70, opacity=1).encode(x="difference:Q")
    zero = alt.Chart({"values": [{"zero": 0}]}).mark_rule(color="gray", strokeDash=[4, 3]).encode(x="zero:Q")
    said = f"Differences from {comparison.against}, in points: " + "; ".join(
        f"{row['configuration']} {row['difference']:+g}, 95 % from {row['low']:+g} to {row['high']:+g}"
        for row in rows
    )
    note = (
        "Mean over pairs of seed and client; the line is 95 % of a bootstrap over pairs, p that of a "
        "sign-flip test after Holm's correction."
    )
    columns = ["configuration", "difference", "low", "high", "p", "pairs"]
    table: list[list[Cell]] = [[row[name] for name in columns] for row in rows]
    heading = f"Differences from {comparison.against}"
    return Figure("differences", heading, f"{said}.", note, spec_of(zero + ends + dots), columns, table)


def _points(means: dict[str, list[tuple[int, float, float]]]) -> list[dict[str, Any]]:
    """What a chart of the means is drawn from, a row a point."""
    return [
        {"round": number, "configuration": label, "score": percent(score), "bytes": size}
        for label, points in means.items()
        for number, size, score in points
    ]


def _means(comparison: Comparison) -> dict[str, list[tuple[int, float, float]]]:
    """(round, bytes, score) by configuration: means over the seeds that have the round."""
    return {group.label: _mean_points(group, comparison.curve) for group in comparison.groups}


def _mean_points(group: Group, kind: str) -> list[tuple[int, float, float]]:
    found: dict[int, list[Point]] = {}
    for run in group.runs:
        for point in curve(run, kind):
            found.setdefault(point.server_round, []).append(point)
    return [
        (number, statistics.fmean(p.payload_bytes for p in points), statistics.fmean(p.mean for p in points))
        for number, points in sorted(found.items())
    ]
