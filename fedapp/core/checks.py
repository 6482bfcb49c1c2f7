"""Checks that settings share: each says in one line which setting, its value and what would be right."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any


def show_value(value: Any) -> str:
    """A value as a message shows it: ``null`` where the config says null."""
    return "null" if value is None else repr(value)


def is_number(value: Any) -> bool:
    """Whether it is a number; true, false and NaN are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def require_int(name: str, value: Any, at_least: int) -> None:
    """Refuse what is not a whole number of at least ``at_least``.

    Raises:
        ValueError: In one line that begins with ``name``.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise ValueError(f"{name}={show_value(value)} must be a whole number of at least {at_least}")


def require_number(name: str, value: Any, interval: str, kind: str = "number") -> None:
    """Refuse what is not a number inside an interval.

    Args:
        name: The setting, as one types it.
        value: What it was set to.
        interval: As in mathematics: ``[0, 1)`` holds 0 and not 1; ``[0, inf)`` holds no infinity.
        kind: What the number counts (``number of seconds``).

    Raises:
        ValueError: In one line that begins with ``name``.
    """
    low, high = (float(end) for end in interval[1:-1].split(","))
    if is_number(value):
        above = value >= low if interval[0] == "[" else value > low
        below = value <= high if interval[-1] == "]" else value < high
        if above and below:
            return
    wanted = f"within {interval}"
    if high == math.inf:
        wanted = f"of at least {low:g}" if interval[0] == "[" else f"greater than {low:g}"
    raise ValueError(f"{name}={show_value(value)} must be a {kind} {wanted}")


def require_bool(name: str, value: Any) -> None:
    """Refuse what is neither true nor false.

    Raises:
        ValueError: In one line that begins with ``name``.
    """
    if not isinstance(value, bool):
        raise ValueError(f"{name}={show_value(value)} must be true or false")


def require_choice(name: str, value: Any, choices: Iterable[str]) -> None:
    """Refuse what is not one of the choices.

    Raises:
        ValueError: In one line that begins with ``name`` and lists the choices.
    """
    known = list(choices)  # a list, not a set: the value may be something that has no hash
    if value not in known:
        raise ValueError(f"{name}={show_value(value)} must be one of: {', '.join(known)}")


def require_kind(name: str, value: Any, kind: type, what: str) -> None:
    """Refuse an object that does not follow a protocol or extend a class.

    Args:
        name: The setting, as one types it.
        value: What was made of its node.
        kind: A class, or a protocol whose members can be looked for.
        what: What such an object is called (``a rule of fedapp.aggregation``).

    Raises:
        ValueError: In one line that begins with ``name``.
    """
    if not isinstance(value, kind) or isinstance(value, type):
        raise ValueError(f"{name}={show_value(value)} must be a mapping with _target_, {what}")
