"""Where the newest memory of a node's clients is: in the worker, with Flower, or on the party's disk.

Flower 1.42 stores what a node's clients remember after it has let their answer go, in one piece. With large
adapters the next round's message can be there before that has happened, and would be worked on with the
memory of an earlier round. So every memory says of which round it is, and the newest is taken.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

from fedapp.core.payload import Payload
from fedapp.core.types import Arrays
from fedapp.records.checkpoints.memory import Memory, find_memory, forget_later, keep_memory
from fedapp.wire.frames import Records
from fedapp.wire.messages import Work
from fedapp.wire.records import Envelope, pack, unpack

logger = logging.getLogger("fedapp.party")
ROUND = "round"


class Memories:
    """What the clients of a node remember; of use to a process that answers more than one message."""

    def __init__(self) -> None:
        self._held: dict[int, Memory] = {}

    def recall(self, work: Work, stored: Records, folder: Path | None) -> Memory | None:
        """A client's memory as it was after its newest part of the run before this message.

        Args:
            work: What the server asks for.
            stored: What Flower gave with the message.
            folder: Where the party's disk has it; None: nowhere.

        Returns:
            The memory, its arrays the caller's own; an empty one of a client that was not asked before, None
            where there is none of one that was.
        """
        if work.asked_last is None:
            return Memory(0, {})
        if folder is not None:  # what rounds that are done again left would count as theirs
            forget_later(folder, work.asked_last)
        newest: Memory | None = None
        for found in self._kept(work, stored, folder, work.asked_last):
            if newest is None or found.server_round > newest.server_round:
                newest = found
            if newest.server_round == work.asked_last:
                break  # none is newer, and each place costs a copy
        return newest

    def keep(self, work: Work, arrays: Arrays, folder: Path | None) -> Records:
        """Keep a client's memory as it is after its part of a round.

        Args:
            work: What the server asked for.
            arrays: The memory.
            folder: As in ``recall``.

        Returns:
            What Flower is to store.

        Raises:
            WriteError: If the party's disk does not take it.
        """
        if folder is not None:
            keep_memory(folder, work.server_round, arrays)
        self._held[work.client_id] = Memory(work.server_round, arrays)
        return pack(Envelope({ROUND: work.server_round}, Payload(arrays=arrays)), prefix=_prefix(work))

    def _kept(self, work: Work, stored: Records, folder: Path | None, up_to: int) -> Iterator[Memory]:
        """Those of each place, the cheapest first, and of no round that this run does again."""
        held = self._held.get(work.client_id)
        if held is not None and held.server_round <= up_to:
            # A routine that fails half-way may have changed what it was given.
            yield Memory(held.server_round, {name: held.arrays[name].copy() for name in sorted(held.arrays)})
        if f"{_prefix(work)}-message" in stored:
            found = unpack(stored, prefix=_prefix(work))
            server_round = found.facts.get(ROUND, 0)  # an older fedapp's does not say
            if server_round <= up_to:
                yield Memory(server_round, found.payload.arrays)
        if folder is not None and (kept := find_memory(folder, up_to, logger.warning)) is not None:
            yield kept


def _prefix(work: Work) -> str:
    return f"client-{work.client_id}"
