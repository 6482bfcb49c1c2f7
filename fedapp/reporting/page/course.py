"""Figures on the course of one run: votes of its clients, coefficients of injection, where time went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import altair as alt
import numpy as np
from safetensors import SafetensorError, safe_open

from fedapp.core.model import COEFFICIENTS
from fedapp.reporting.page.charts import bars, heat_map, heat_panels, lines, round_axis, spec_of
from fedapp.reporting.page.figure import Cell, Figure, percent
from fedapp.reporting.page.reading import RunFiles

SHARES = {
    "agreement": "agreement among clients",
    "kept-share": "prompts with a pseudo-label",
    "reference-agreement": "pseudo-labels equal to the reference",
}
SITES, NAMES = ("attention", "MLP"), ("lambda", "beta")


def agreement(run: RunFiles) -> Figure | None:
    """How far clients agree on the public prompts, by round."""
    rows = [
        {"round": row["server-round"], "share": percent(float(row[key])), "which": name}
        for key, name in SHARES.items()
        for row in run.consensus
        if row.get(key) is not None
    ]
    if not rows:
        return None
    axis = alt.Y("share:Q", title="share, %", scale=alt.Scale(zero=False))
    last = max(int(row["round"]) for row in rows)
    chart = lines(rows, round_axis(last), axis, "which", ["which:N", "round:Q", "share:Q"])
    names = list(dict.fromkeys(str(row["which"]) for row in rows))
    found = {(row["round"], row["which"]): row["share"] for row in rows}
    rounds = sorted({int(row["round"]) for row in rows})
    table: list[list[Cell]] = [[number, *(found.get((number, name)) for name in names)] for number in rounds]
    said = "Consensus by round. In the last one: " + ", ".join(
        f"{name} {found[(last, name)]:g} %" for name in names if (last, name) in found
    )
    note = "Agreement: the share of votes in the winning cluster, mean over prompts."
    title = "Consensus on the public prompts"
    return Figure("agreement", title, f"{said}.", note, spec_of(chart), ["round", *names], table)


def cluster_sizes(run: RunFiles) -> Figure | None:
    """How many clusters of each size the clients' answers formed, by round."""
    rows = [
        {"round": str(row["server-round"]), "size": int(size), "count": count}
        for row in run.consensus
        for size, count in (row.get("cluster-sizes") or {}).items()
    ]
    if not rows:
        return None
    rounds = list(dict.fromkeys(row["round"] for row in rows))
    sizes = sorted({row["size"] for row in rows}, reverse=True)
    found = {(row["round"], row["size"]): row["count"] for row in rows}
    cells = [
        {"across": number, "down": str(size), "value": found.get((number, size), 0)}
        for size in sizes
        for number in rounds
    ]
    most = max(int(cell["value"]) for cell in cells)
    titles = {"across": "round", "down": "clients in a cluster", "value": "clusters"}
    chart = heat_map(cells, "d", [0, max(most, 1)], **titles)
    table: list[list[Cell]] = [
        [number, *(found.get((number, size), 0) for size in reversed(sizes))] for number in rounds
    ]
    said = (
        f"Clusters of answers by size and round. In round {rounds[-1]}: "
        + ", ".join(f"{found.get((rounds[-1], size), 0)} of {size}" for size in reversed(sizes))
        + " clients."
    )
    note = "A cluster is the clients whose answers to one prompt count as the same."
    columns = ["round", *(f"of {size}" for size in reversed(sizes))]
    return Figure("clusters", "Sizes of clusters", said, note, spec_of(chart), columns, table)


def coefficients(run: RunFiles) -> Figure | None:
    """What context vectors and a layer's own output are multiplied by, by layer."""
    found = _coefficients(run.adapters)
    if found is None:
        return None
    whose, values = found
    names = [f"{NAMES[k]}, {site}" for site in SITES for k in range(values.shape[2])]
    by_layer = values.reshape(len(values), -1)
    rows = [
        {"layer": layer, "which": name, "value": round(float(by_layer[layer, k]), 5)}
        for k, name in enumerate(names)
        for layer in range(len(values))
    ]
    last = len(values) - 1
    axis = alt.X(
        "layer:Q", axis=alt.Axis(values=list(range(0, last + 1, max(1, -(-last // 12)))), format="d")
    )
    chart = lines(
        rows, axis, alt.Y("value:Q", title="coefficient"), "which", ["which:N", "layer:Q", "value:Q"]
    )
    said = f"Coefficients of injection by layer, {whose}, {last + 1} layers: " + ", ".join(
        f"{name} from {by_layer[:, k].min():.3f} to {by_layer[:, k].max():.3f}"
        for k, name in enumerate(names)
    )
    note = (
        f"Of {whose}, after calibration. lambda multiplies the context vector, beta the module's own output "
        "(docs/ifed-icl.md)."
    )
    table: list[list[Cell]] = [[n, *(round(float(v), 5) for v in by_layer[n])] for n in range(last + 1)]
    title = "Coefficients of injection by layer"
    return Figure("coefficients", title, f"{said}.", note, spec_of(chart), ["layer", *names], table)


def coefficients_by_round(run: RunFiles) -> Figure | None:
    """The same by round, as the server combined them; one round alone is what ``coefficients`` shows."""
    rounds = [int(row["server-round"]) for row in run.coefficients]
    if len(rounds) < 2:
        return None
    # [rounds, num_layers, sites, lambda and beta, or lambda alone]
    values = np.array([row["values"] for row in run.coefficients], dtype=float)
    panels = {
        f"{NAMES[k]}, {site}": values[:, :, at, k]
        for at, site in enumerate(SITES)
        for k in range(values.shape[3])
    }
    chart = heat_panels(panels, rounds, across="round", down="layer")
    said = (
        f"Coefficients of injection by round and layer, rounds {rounds[0]} to {rounds[-1]}. "
        "Mean over layers, in the first and the last of them: "
        + ", ".join(f"{name} {one[0].mean():.3f} and {one[-1].mean():.3f}" for name, one in panels.items())
    )
    note = "As the server combined them. Each panel has colours of its own; all values: coefficients.jsonl."
    table: list[list[Cell]] = []
    for at, number in enumerate(rounds):
        ends = [end for one in panels.values() for end in (one[at].min(), one[at].mean(), one[at].max())]
        table.append([number, *(round(float(end), 5) for end in ends)])
    columns = [f"{name}: {end}" for name in panels for end in ("least", "mean", "greatest")]
    title = "Coefficients of injection by round"
    return Figure(
        "coefficients-by-round", title, f"{said}.", note, spec_of(chart), ["round", *columns], table
    )


def _coefficients(files: Mapping[int | None, Path]) -> tuple[str, np.ndarray] | None:
    """Whose they are, and their values, [num_layers, 2, 2 or 1]; a mean where none are shared."""
    whose = {None: "the shared model"} if None in files else dict.fromkeys(files, "the mean of clients")
    found = []
    for who in whose:
        try:
            with safe_open(files[who], framework="numpy") as opened:
                if COEFFICIENTS not in opened.keys():  # noqa: SIM118  a file of tensors is no mapping
                    return None
                found.append(opened.get_tensor(COEFFICIENTS))
        except (OSError, SafetensorError):
            return None
    if not found or found[0].ndim != 3 or len({one.shape for one in found}) > 1:
        return None
    return next(iter(whose.values())), np.mean(found, axis=0)


def time_by_phase(run: RunFiles) -> Figure | None:
    """Where the run's time went, on the server's clock and on the clients'."""
    wall, work, cpu = _times(run.events)
    if not wall:
        return None
    rows = []
    for phase, seconds in wall.items():
        rows.append({"what": f"{phase}: wall time", "seconds": round(seconds, 2)})
        if phase in work:
            rows.append({"what": f"{phase}: clients' CPU", "seconds": round(cpu[phase], 2)})
    names = [str(row["what"]) for row in rows]
    chart = bars(
        rows,
        alt.X("seconds:Q", title="seconds"),
        alt.Y("what:N", sort=names, title=None, axis=alt.Axis(labelLimit=260)),
        alt.Text("seconds:Q", format=".3~g"),
        ["what:N", "seconds:Q"],
    )
    said = f"Time by phase, {sum(wall.values()):.1f} seconds in all: " + ", ".join(
        f"{phase} {seconds:.1f} s" for phase, seconds in wall.items()
    )
    note = "Wall time on the server's clock; CPU is processor time of all clients together."
    table: list[list[Cell]] = [
        [phase, round(seconds, 2), _rounded(work.get(phase)), _rounded(cpu.get(phase))]
        for phase, seconds in wall.items()
    ]
    columns = ["phase", "wall seconds", "clients' seconds", "clients' CPU seconds"]
    return Figure("time", "Time by phase", f"{said}.", note, spec_of(chart), columns, table)


def _times(
    events: Sequence[Mapping[str, Any]],
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Seconds by phase: between the server's events, and of clients' work and processors."""
    wall: dict[str, float] = {}
    work: dict[str, float] = {}
    cpu: dict[str, float] = {}
    before = 0.0
    names = {"start": "start", "end": "end"}
    for event in events:
        phase = str(event.get("phase") or "")
        if event.get("event") == "reply":
            work[phase] = work.get(phase, 0.0) + float(event.get("seconds") or 0.0)
            cpu[phase] = cpu.get(phase, 0.0) + float(event.get("cpu-seconds") or 0.0)
        elif event.get("event") in (*names, "round"):
            name, until = names.get(str(event["event"]), phase), float(event["time"])
            wall[name] = wall.get(name, 0.0) + until - before
            before = until
    return wall, work, cpu


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 2)
