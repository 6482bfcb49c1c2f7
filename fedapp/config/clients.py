"""Configs of single clients, where ``by_client`` lets their models, adapters or training differ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MAY_DIFFER = ("model", "adapter", "train")


def variant(config: Mapping[str, Any], client_id: int) -> str:
    """The overrides that hold for one client alone; clients with the same text are alike."""
    texts = config.get("by_client") or [""]
    return str(texts[client_id % len(texts)])


def client_config(config: Mapping[str, Any], client_id: int) -> Mapping[str, Any]:
    """The composed tree as it holds for one client.

    Args:
        config: What ``fedapp.config.compose.load_config`` composed.
        client_id: Number of the client, from 0.
    """
    own = config.get("client_configs", {}).get(variant(config, client_id))
    return {**config, **own} if own else config


def one_of_each(config: Mapping[str, Any]) -> list[int]:
    """The first client of every variant, in the order of their numbers."""
    found: dict[str, int] = {}
    for client_id in range(config["num_clients"]):
        found.setdefault(variant(config, client_id), client_id)
    return list(found.values())
