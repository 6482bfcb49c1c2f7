"""Examples written as demonstrations, and what is made of many that were read."""

from __future__ import annotations

from typing import Any

from fedapp.core.checks import show_value
from fedapp.core.types import Example


def check_demonstration(pattern: Any) -> None:
    """Refuse a pattern that does not show an example's prompt and target.

    Raises:
        ValueError: In one line that begins with the setting.
    """
    parts = ("{prompt}", "{target}")
    fits = isinstance(pattern, str) and all(pattern.count(part) == 1 for part in parts)
    if not fits or pattern.index(parts[0]) > pattern.index(parts[1]):
        raise ValueError(
            f"demonstration={show_value(pattern)} must be a text with {{prompt}}, then {{target}}, each once"
        )


def write_demonstration(pattern: str, example: Example) -> str:
    """An example as the model reads it, answer included; its texts are taken literally."""
    before, _, after = pattern.partition("{prompt}")
    middle, _, end = after.partition("{target}")
    return f"{before}{example.prompt}{middle}{example.target}{end}"
