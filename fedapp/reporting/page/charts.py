"""Charts in Vega-Lite, through Altair: lines, bars, heat maps that read without colour too.

Text and axes have the page's own colour (``currentColor``), so that a chart follows the page into dark mode
and onto paper. Colours of series have a contrast of 3 to 1 at least on white and on the dark page; series
differ in dash and shape as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np

COLOURS = ("#0077BB", "#D4591B", "#00876C", "#C2388F", "#7A6FD0", "#8A7A1F", "#CC3311", "#5F7F8F")
DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3], [4, 4], [12, 4], [2, 5], [6, 2, 2, 2, 2, 2])
SHAPES = (
    "circle",
    "square",
    "triangle-up",
    "diamond",
    "cross",
    "triangle-down",
    "triangle-right",
    "triangle-left",
)
MOST_SERIES = len(COLOURS)
"""With more series than these no reader tells them apart: they get one look, and their names on hover."""
WIDTH: Any = "container"
HEIGHT, PANEL, CELL, LINE = 260, 130, 40, 15
"""Sides of a figure, of one panel of several, of a heat map's cell, and of a line of text, pixels; charts
fill their place's width.
"""
MOST_WRITTEN = 12
"""With more names than these on a side the cells of a heat map become smaller and hold no numbers."""
SCHEME: Any = "viridis"

Rows = Sequence[dict[str, Any]]

CONFIG: dict[str, Any] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        **{f"{part}Color": "currentColor" for part in ("label", "title", "domain", "tick", "grid")},
        "gridOpacity": 0.15,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "legend": {
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "symbolStrokeWidth": 2,
        "labelFontSize": 12,
        "labelLimit": 400,
        "orient": "bottom",
        "symbolSize": 90,
    },
    "header": {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12},
    "title": {"color": "currentColor"},
    "text": {"color": "currentColor", "fontSize": 12},
}
"""What all charts of the page share."""


def spec_of(chart: alt.TopLevelMixin) -> dict[str, Any]:
    """The chart as Vega-Lite, without what the page holds once for all."""
    spec: dict[str, Any] = chart.to_dict()
    spec.pop("config", None)
    spec.pop("$schema", None)
    return spec


def lines(
    rows: Rows, x: alt.X, y: alt.Y, series: str, tooltip: Sequence[Any], bold: str = ""
) -> alt.LayerChart:
    """A line with marks for each series.

    Args:
        rows: An object for each point, with the fields that the axes name.
        x: The horizontal axis.
        y: The vertical axis.
        series: The field whose values are the series, in the order of the rows.
        tooltip: Fields to show on hover.
        bold: The series whose line is thicker than the others'.
    """
    names = list(dict.fromkeys(row[series] for row in rows))
    base = alt.Chart({"values": list(rows)}, width=WIDTH, height=HEIGHT).encode(
        x=x, y=y, tooltip=list(tooltip)
    )
    if len(names) > MOST_SERIES:
        drawn = base.encode(detail=f"{series}:N")
        marks = drawn.mark_line(color=COLOURS[0], opacity=0.45)
        marks += drawn.mark_point(color=COLOURS[0], opacity=0.6, size=20)
        if bold not in names:
            return marks
        thick = base.transform_filter(f"datum.{series} == {bold!r}").mark_line(
            color=COLOURS[1], strokeWidth=4
        )
        return marks + thick
    # As many in a line as there is room for: a letter is 7 pixels wide or less.
    legend = alt.Legend(title=None, columns=max(1, min(4, 400 // (7 * max(map(len, names)) + 20))))
    look = {
        "color": alt.Color(f"{series}:N", scale=_scale(names, COLOURS), legend=legend),
        "shape": alt.Shape(f"{series}:N", scale=_scale(names, SHAPES), legend=legend),
    }
    dash = alt.StrokeDash(f"{series}:N", scale=_scale(names, DASHES), legend=legend)
    width = alt.condition(f"datum.{series} == {bold!r}", alt.value(4), alt.value(2))
    line = base.mark_line().encode(color=look["color"], strokeDash=dash, strokeWidth=width)
    return line + base.mark_point(filled=True, size=60, opacity=1).encode(**look)


def heat_map(
    rows: Rows, form: str, domain: Sequence[float], *, across: str, down: str, value: str
) -> alt.Chart | alt.LayerChart:
    """Cells of two lists of names, with their values written into them where there is room.

    Args:
        rows: An object for each cell, with ``across`` and ``down``, names, and ``value``.
        form: How values are written, as ``.2f``.
        domain: From the darkest colour's value to the lightest's.
        across: Title of the columns.
        down: Title of the rows.
        value: Title of the values.
    """
    columns, lines_down = (list(dict.fromkeys(row[name] for row in rows)) for name in ("across", "down"))
    most = max(len(columns), len(lines_down))
    side = CELL if most <= MOST_WRITTEN else max(8, MOST_WRITTEN * CELL // most)
    base = alt.Chart({"values": list(rows)}, width=side * len(columns), height=side * len(lines_down)).encode(
        x=alt.X("across:N", sort=columns, title=across, axis=alt.Axis(labelAngle=0, labelOverlap=True)),
        y=alt.Y("down:N", sort=lines_down, title=down, axis=alt.Axis(labelOverlap=True)),
        tooltip=[
            alt.Tooltip("down:N", title=down),
            alt.Tooltip("across:N", title=across),
            alt.Tooltip("value:Q", title=value, format=form),
        ],
    )
    legend = alt.Legend(title=value, orient="right", gradientLength=100, format=form, tickCount=4)
    scale = alt.Scale(scheme=SCHEME, domain=list(domain))
    chart = base.mark_rect(stroke="currentColor", strokeOpacity=0.2).encode(
        color=alt.Color("value:Q", scale=scale, legend=legend)
    )
    if most > MOST_WRITTEN:
        return chart
    # White on the darker 55 % of the scheme, black on the rest: 4.5 to 1 at least.
    ink = f"datum.value < {domain[0] + 0.55 * (domain[1] - domain[0])}"
    colour = alt.condition(ink, alt.value("white"), alt.value("black"))
    return chart + base.mark_text(fontSize=11).encode(text=alt.Text("value:Q", format=form), color=colour)


def heat_panels(
    panels: Mapping[str, np.ndarray], columns: Sequence[int], *, across: str, down: str
) -> alt.VConcatChart:
    """Heat maps beside and below each other, two in a line, each with colours of its own.

    Args:
        panels: Values by title, [columns, rows].
        columns: Numbers of the columns.
        across: Title of the columns.
        down: Title of the rows, which are numbered from 0.
    """
    made = []
    for title, values in panels.items():
        rows = [
            {"across": column, "down": n, "value": round(float(value), 6)}
            for column, line in zip(columns, values, strict=True)
            for n, value in enumerate(line)
        ]
        count = values.shape[1]
        every = [n for n in range(count) if n % -(-count // 6) == 0]
        some = [n for at, n in enumerate(columns) if at % -(-len(columns) // 8) == 0]
        encoded = alt.Chart(
            {"values": rows}, title=title, width=PANEL, height=max(60, min(PANEL, 16 * count))
        )
        encoded = encoded.mark_rect().encode(
            x=alt.X("across:O", title=across, axis=alt.Axis(labelAngle=0, values=some)),
            y=alt.Y("down:O", title=down, axis=alt.Axis(values=every)),
            color=alt.Color(
                "value:Q",
                scale=alt.Scale(scheme=SCHEME, zero=False),
                legend=alt.Legend(title=None, orient="right", gradientLength=60, tickCount=3, format=".3~f"),
            ),
            tooltip=[
                alt.Tooltip("across:O", title=across),
                alt.Tooltip("down:O", title=down),
                alt.Tooltip("value:Q", title=title, format=".4f"),
            ],
        )
        made.append(encoded)
    # Rows of two: Vega's interpreter, which the page needs, draws nothing of a concat with columns.
    pairs = [alt.hconcat(*made[n : n + 2]).resolve_scale(color="independent") for n in range(0, len(made), 2)]
    return alt.vconcat(*pairs).resolve_scale(color="independent")


def bars(rows: Rows, x: alt.X, y: alt.Y, text: alt.Text, tooltip: Sequence[Any]) -> alt.LayerChart:
    """Horizontal bars of one colour, with their values at their ends."""
    count = len({row[str(y.shorthand).split(":")[0]] for row in rows})
    base = alt.Chart({"values": list(rows)}, width=WIDTH, height=22 * count)
    base = base.encode(x=x, y=y, tooltip=list(tooltip))
    return base.mark_bar(color=COLOURS[0]) + base.mark_text(align="left", dx=4).encode(text=text)


def name_axis(field: str, names: Sequence[str]) -> tuple[alt.Y, int]:
    """The vertical axis of names made of words, a word a line, and the height that it needs in pixels."""
    # A word of a label is a setting, which has no blank in it.
    most = max(len(name.split(" ")) for name in names)
    axis = alt.Axis(labelExpr="split(datum.label, ' ')", labelLimit=240, labelOffset=-(most - 1) * LINE / 2)
    return alt.Y(f"{field}:N", sort=list(names), title=None, axis=axis), len(names) * max(
        28, LINE * most + 12
    )


def percent_axis(title: str) -> alt.Y:
    """The vertical axis of scores in percent, field ``score``."""
    return alt.Y("score:Q", title=f"{title}, %", scale=alt.Scale(zero=False, nice=True))


def bytes_axis(title: str) -> alt.X:
    """The horizontal axis of payload bytes, field ``bytes``."""
    return alt.X("bytes:Q", title=title, axis=alt.Axis(labelExpr="format(datum.value, '~s')", tickCount=6))


def round_axis(last: int) -> alt.X:
    """The horizontal axis of rounds, field ``round``."""
    values = list(range(0, last + 1, max(1, -(-last // 12))))
    return alt.X("round:Q", title="round", axis=alt.Axis(values=values, format="d"))


def _scale(names: Sequence[str], looks: Sequence[Any]) -> alt.Scale:
    return alt.Scale(domain=list(names), range=list(looks[: len(names)]))
