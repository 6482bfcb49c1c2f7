"""From rows of a run's files to points of curves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NAMES = ("server-round", "client-id", "num-examples")
"""Whole numbers of a row that are no measurements."""


def series(file: str, row: Mapping[str, Any]) -> dict[str, float]:
    """What a row adds to curves over the rounds.

    A curve is called ``what/which/whose``: ``accuracy/test-final-after/client-2``. What is measured
    comes first, as trackers put curves together by the text before the first slash.

    Args:
        file: The file that the row belongs to, without its ending.
        row: As the run folder writes it.

    Returns:
        A value for each curve; empty if the row has no round or no measurement.
    """
    if type(row.get("server-round")) is not int:
        return {}
    which = _WHICH.get(file, _of_method)(file, row)
    whose = f"/client-{row['client-id']}" if "client-id" in row else ""
    numbers = dict(row)
    if file == "events":  # a round's event holds the means over clients
        numbers |= row.get("metrics") or {}
    return {
        f"{name}/{which}{whose}": float(value)
        for name, value in numbers.items()
        if type(value) in (int, float) and name not in NAMES and not (file == "events" and name == "time")
    }


def _of_score(file: str, row: Mapping[str, Any]) -> str:
    return "-".join(str(row[key]) for key in ("split", "model", "moment"))


def _of_message(file: str, row: Mapping[str, Any]) -> str:
    return f"{row['phase']}-{row['direction']}"


def _of_event(file: str, row: Mapping[str, Any]) -> str:
    mean = "-mean" if row["event"] == "round" else ""
    return f"{row.get('phase')}{mean}"


def _of_method(file: str, row: Mapping[str, Any]) -> str:
    return file


_WHICH = {"metrics": _of_score, "traffic": _of_message, "events": _of_event}
