"""Figures on the clients of one run: their rows, how alike their adapters are, whose model works where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from fedapp.reporting.page.charts import CELL, COLOURS, bars, heat_map, spec_of
from fedapp.reporting.page.figure import Cell, Figure, percent
from fedapp.reporting.page.reading import RunFiles
from fedapp.reporting.page.similarity import cosine_similarity

MOST_BYTES = 1 << 30
"""Adapters that are larger together than this are not read for a page."""


def partition(run: RunFiles) -> Figure | None:
    """How many training rows of each label, or of each task, every client has."""
    dealt = _dealt(run)
    if dealt is None:
        return _sizes(run)
    what, counts = dealt
    kinds = sorted({kind for row in counts.values() for kind in row})
    rows = [
        {"client": str(client), what: kind, "rows": counts[client].get(kind, 0)}
        for client in counts
        for kind in kinds
    ]
    base = alt.Chart({"values": rows}, width=max(CELL * len(counts), 160), height=CELL * len(kinds)).encode(
        x=alt.X(
            "client:N",
            sort=[str(client) for client in counts],
            axis=alt.Axis(labelAngle=0, labelOverlap=True),
        ),
        y=alt.Y(f"{what}:N", sort=kinds),
        tooltip=["client:N", f"{what}:N", "rows:Q"],
    )
    size = alt.Size("rows:Q", scale=alt.Scale(range=[0, CELL * CELL * 0.8]), legend=None)
    chart: Any = base.mark_circle(color=COLOURS[0], opacity=0.45).encode(size=size)
    if len(counts) <= 20:
        chart = chart + base.mark_text(fontSize=11).encode(text="rows:Q")
    totals = {client: sum(row.values()) for client, row in counts.items()}
    said = (
        f"Training rows by client and {what}: {len(counts)} clients with {min(totals.values())} to "
        f"{max(totals.values())} rows of {len(kinds)} kinds."
    )
    table: list[list[Cell]] = [
        [client, totals[client], *(counts[client].get(kind, 0) for kind in kinds)] for client in counts
    ]
    note = "The area of a disc is the number of training rows, after validation rows were put aside."
    return Figure(
        "partition",
        f"Rows by client and {what}",
        said,
        note,
        spec_of(chart),
        ["client", "all", *kinds],
        table,
    )


def _dealt(run: RunFiles) -> tuple[str, dict[int, dict[str, int]]] | None:
    """``label`` or ``task``, and the training rows of each by client."""
    rows = {client: about.get("rows", {}).get("train", {}) for client, about in sorted(run.clients.items())}
    for what in ("label", "task"):
        counts = {client: dict(found.get(f"by-{what}", {})) for client, found in rows.items()}
        if counts and all(sum(row.values()) for row in counts.values()):
            return what, counts
    return None


def _sizes(run: RunFiles) -> Figure | None:
    """How many training rows every client has: what there is where they kept nothing else."""
    known = {client: about for client, about in run.summary.items() if about.get("train-rows")}
    if not known:
        return None
    rows = [{"client": str(client), "rows": about["train-rows"]} for client, about in known.items()]
    names = [str(client) for client in known]
    chart = bars(
        rows,
        alt.X("rows:Q", title="training rows"),
        alt.Y("client:N", sort=names),
        alt.Text("rows:Q"),
        ["client:N", "rows:Q"],
    )
    sizes = [row["rows"] for row in rows]
    said = f"Training rows of {len(rows)} clients, from {min(sizes)} to {max(sizes)}."
    table: list[list[Cell]] = [
        [client, about["train-rows"], ", ".join(map(str, about.get("tasks", [])))]
        for client, about in known.items()
    ]
    note = "By label or task where clients keep client.json in the run folder (save_adapters=true)."
    return Figure(
        "partition", "Rows by client", said, note, spec_of(chart), ["client", "training rows", "tasks"], table
    )


def similarity(run: RunFiles) -> Figure | None:
    """Cosine of the angle between each two clients' final adapters; none where all have the same one."""
    files = {client: path for client, path in run.adapters.items() if client is not None}
    if run.result.pooled.one_model or sum(path.stat().st_size for path in files.values()) > MOST_BYTES:
        return None
    found = cosine_similarity(files)
    if found is None:
        return None
    clients, cosines = found
    rounded = [[round(float(value), 4) for value in row] for row in cosines]
    between = [rounded[i][j] for i in range(len(clients)) for j in range(i)]
    low = min(min(between), 0.99)
    chart = _square(
        clients,
        rounded,
        "adapter of client",
        "adapter of client",
        "cosine",
        ".2f" if low < 0.95 else ".3f",
        [low, 1.0],
    )
    said = (
        f"Cosine similarity of the final adapters of {len(clients)} clients: from {min(between):.3f} to "
        f"{max(between):.3f} between two different ones."
    )
    note = (
        "All numbers of an adapter as one vector. Clients start from the same values, so that even adapters "
        "that learnt nothing in common are alike to some degree: compare cells with one another."
    )
    columns, table = _square_table(clients, rounded)
    return Figure("similarity", "Similarity of final adapters", said, note, spec_of(chart), columns, table)


def matrix(run: RunFiles) -> Figure | None:
    """The score of each client's final model on the test rows of each client."""
    scores = {
        client: about.get("cross-scores", {}).get(run.metric, {})
        for client, about in sorted(run.clients.items())
    }
    clients = [client for client in scores if scores[client]]
    if not clients or any(str(other) not in scores[client] for client in clients for other in clients):
        return None
    values = [[percent(scores[client][str(other)]) for other in clients] for client in clients]
    flat = [value for row in values for value in row]
    low, high = min(flat), max(flat)
    domain = [low, high if high > low else low + 1]
    chart = _square(
        clients, values, "test rows of client", "model of client", f"{run.metric}, %", ".0f", domain
    )
    own = [values[i][i] for i in range(len(clients))]
    others = [values[i][j] for i in range(len(clients)) for j in range(len(clients)) if i != j]
    foreign = f", {sum(others) / len(others):.1f} % on others' rows" if others else ""
    said = (
        f"{run.metric} of {len(clients)} clients' final models on each client's test rows: "
        f"{sum(own) / len(own):.1f} % on a client's own rows{foreign}, on average."
    )
    note = "A row is one client's model, a column one client's test rows, the diagonal its own on its own."
    columns, table = _square_table(clients, values)
    title = f"{run.metric} of each model on each client's rows"
    return Figure("matrix", title, said, note, spec_of(chart), columns, table)


def _square(
    clients: Sequence[int],
    values: Sequence[Sequence[float]],
    x: str,
    y: str,
    value: str,
    form: str,
    domain: list[float],
) -> Any:
    rows = [
        {"across": str(other), "down": str(client), "value": values[i][j]}
        for i, client in enumerate(clients)
        for j, other in enumerate(clients)
    ]
    return heat_map(rows, form, domain, across=x, down=y, value=value)


def _square_table(
    clients: Sequence[int], values: Sequence[Sequence[float]]
) -> tuple[list[str], list[list[Cell]]]:
    columns = ["client", *(str(client) for client in clients)]
    return columns, [[client, *row] for client, row in zip(clients, values, strict=True)]
