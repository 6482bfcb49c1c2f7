"""Scores of the model as it stands, on the splits that the config names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fedapp.core.checks import show_value
from fedapp.core.types import ClientFailure

SPLITS = ("validation", "test")


def score_settings(node: Any) -> dict[str, Any]:
    """Check the ``score`` node.

    Raises:
        ClientFailure: If it cannot be used; the message names the setting.
    """
    expected = "score must hold splits (a list), base, before and after (true or false)"
    if not isinstance(node, Mapping) or set(node) != {"splits", "base", "before", "after"}:
        raise ClientFailure(f"score={show_value(node)} cannot be used: {expected}")
    splits = node["splits"]
    if not isinstance(splits, Sequence) or isinstance(splits, str):
        raise ClientFailure(f"score.splits={splits!r} must be a list of: {', '.join(SPLITS)}")
    for split in splits:
        if split not in SPLITS:
            raise ClientFailure(f"score.splits={split!r} must be one of: {', '.join(SPLITS)}")
    for name in ("base", "before", "after"):
        if not isinstance(node[name], bool):
            raise ClientFailure(f"score.{name}={node[name]!r} must be true or false")
    return dict(node)
