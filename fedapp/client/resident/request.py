"""A message's work, asked and answered, and whether a resident worker is to do it."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fedapp.core.checks import show_value
from fedapp.wire.frames import Records

Action = Literal["join", "serve"]
RESIDENT_KEY, IDLE_KEY = "resident", "resident-idle"
IDLE_SECONDS = 600.0
"""How long a worker waits for the next message before it gives back what it holds."""
PROGRAM = "flwr-clientapp"
"""What Flower starts at a party for every message; in a simulation the app is in another process."""


@dataclass(frozen=True)
class Request:
    """A message, with all that its answer depends on.

    Attributes:
        action: What it asks for.
        run: Flower's number of the run.
        message_type: Flower's, for the party's log.
        node_config: What the node was started with.
        content: What was sent.
        state: The memory of the node's clients, as Flower keeps it.
    """

    action: Action
    run: int
    message_type: str
    node_config: Mapping[str, Any]
    content: Records
    state: Records


@dataclass
class Answer:
    """What is sent back.

    Attributes:
        content: The reply.
        state: What changed of the memory.
        last: Whether it was the last that the run asks of this client.
    """

    content: Records
    state: Records = field(default_factory=Records)
    last: bool = False


@dataclass(frozen=True)
class Residence:
    """Whether work is done by a process that stays, and for how long it stays without work.

    Attributes:
        wanted: Whether it is.
        idle_seconds: Until it ends by itself.
    """

    wanted: bool
    idle_seconds: float = IDLE_SECONDS

    @classmethod
    def of(cls, node_config: Mapping[str, Any]) -> Residence:
        """What a node's configuration says; by default a worker stays in a deployment on Linux, nowhere else.

        Args:
            node_config: What the node was started with: ``resident`` and ``resident-idle``.

        Raises:
            ValueError: If a value cannot be used.
        """
        wanted = node_config.get(RESIDENT_KEY, True)
        if not isinstance(wanted, bool):
            raise ValueError(f"{RESIDENT_KEY}={show_value(wanted)} must be true or false")
        seconds = node_config.get(IDLE_KEY, IDLE_SECONDS)
        if type(seconds) not in (int, float) or not (math.isfinite(seconds) and seconds > 0):
            raise ValueError(f"{IDLE_KEY}={show_value(seconds)} must be a number of seconds above 0")
        deployed = Path(sys.argv[0]).name == PROGRAM and sys.platform == "linux"
        return cls(wanted and deployed, float(seconds))
