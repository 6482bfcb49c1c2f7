"""A figure of the page: a chart, what it shows in words, and its numbers as a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Cell = str | int | float | None


@dataclass(frozen=True)
class Figure:
    """A chart with its alternatives.

    Attributes:
        kind: Which figure it is, as ``curves``; unique within a run.
        title: Above it.
        said: What it shows, for those who do not see it.
        note: How to read it; below it.
        spec: The chart in Vega-Lite.
        columns: Headings of its numbers.
        rows: Its numbers.
    """

    kind: str
    title: str
    said: str
    note: str
    spec: dict[str, Any]
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]

    @property
    def heading(self) -> str:
        """The title as a heading: a metric's name may be its first word."""
        return self.title[:1].upper() + self.title[1:]


def percent(fraction: float) -> float:
    """A fraction in percent, to the digits that are worth showing."""
    return round(100 * fraction, 2)
