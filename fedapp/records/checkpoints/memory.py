"""A client's memory between rounds, on its own machine: what its routine keeps in ``session.state``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from fedapp.core.payload import State
from fedapp.core.types import Arrays
from fedapp.records.checkpoints.series import Series

KEPT = 3
"""The server keeps two rounds; a client may have done its part of the one after them."""


@dataclass(frozen=True)
class Memory:
    """What a client remembers.

    Attributes:
        server_round: After its part of which round.
        arrays: By name.
    """

    server_round: int
    arrays: Arrays


def keep_memory(folder: Path, server_round: int, memory: Arrays) -> None:
    """Keep a client's memory as it is after its part of a round.

    Raises:
        WriteError: If that cannot be written.
    """
    Series(folder, KEPT).write(server_round, State(memory))


def forget_later(folder: Path, up_to: int) -> None:
    """Remove a client's memories of later rounds."""
    Series(folder, KEPT).cut(up_to)


def find_memory(folder: Path, up_to: int, warn: Callable[[str], None]) -> Memory | None:
    """A client's memory as it was after the last round that it took part in.

    Args:
        folder: Of this client and run.
        up_to: The last round in which the run that goes on asked this client; what was kept later
            belongs to a round that is done again.
        warn: Told of what cannot be read.

    Returns:
        The memory, its arrays sorted as after a way over the network; None where there is none.
    """
    for server_round, found in Series(folder, KEPT).numbered(warn, up_to):
        return Memory(server_round, dict(sorted(found.arrays.items())))
    return None
