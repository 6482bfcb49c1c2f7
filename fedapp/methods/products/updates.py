"""Updates that clients merge into their frozen weights: numbered, sent until they are confirmed.

They are numbered from 1, one a round. A download carries, as ``update-<number>/<name>``, those
that its client has not confirmed by a usable reply, so that a client that misses rounds does not
fall behind.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedapp.aggregation.low_rank import MERGED, A, B, layers, rest_of
from fedapp.core.payload import Spec, State, spec_of
from fedapp.core.types import Arrays

FREE = -1
"""Stands for a rank in a spec in which ranks may differ."""


class UpdateLog:
    """The updates of all rounds, and which of them each client has confirmed.

    All are kept, as factors: a client that comes for the first time needs every one.
    """

    def __init__(self) -> None:
        self.updates: list[Arrays] = []
        self.confirmed: dict[int, int] = {}

    def append(self, update: Arrays, client_ids: Sequence[int]) -> None:
        """Add a round's update; these clients' replies show that they have all the former ones."""
        self.confirmed |= dict.fromkeys(client_ids, len(self.updates))
        self.updates.append(update)

    def forget(self, client_ids: Sequence[int]) -> None:
        """Take nothing for confirmed by these: who was asked in vain may have lost its memory.

        Where it has not, it passes over what it has merged already.
        """
        for client_id in client_ids:
            self.confirmed.pop(client_id, None)

    def state(self) -> State:
        """The updates, and who has confirmed which."""
        updates = State.of_each(dict(enumerate(self.updates)))
        return State.of({"updates": updates}, confirmed=list(self.confirmed.items()))

    def restore(self, state: State) -> None:
        """The same."""
        self.updates = list(state.part("updates").each().values())
        self.confirmed = dict(state.facts["confirmed"])

    def since_confirmed(self, client_id: int) -> Arrays:
        """What a client may lack, under numbered names."""
        first = self.confirmed.get(client_id, 0)
        return {
            update_name(number, name): array
            for number, update in enumerate(self.updates[first:], start=first + 1)
            for name, array in update.items()
        }


def update_name(number: int, name: str) -> str:
    """What an array of an update is called in a download."""
    return f"update-{number}/{name}"


def split_updates(arrays: Arrays) -> tuple[dict[int, Arrays], Arrays]:
    """Updates by number, and everything else."""
    updates: dict[int, Arrays] = {}
    rest: Arrays = {}
    for name, array in arrays.items():
        match = re.fullmatch(r"update-(\d{1,9})/(.+)", name)
        if match:
            updates.setdefault(int(match[1]), {})[match[2]] = array
        else:
            rest[name] = array
    return updates, rest


def spec_without_ranks(arrays: Arrays) -> Spec:
    """Names, dtypes and shapes as ``fedapp.core.payload.spec_of``, but for ranks.

    A rank becomes ``FREE`` where the two factors of a layer agree on it; elsewhere it stays what
    it is, so that an upload whose factors do not fit each other is like no other. Nor is one of more
    ranks than the layer has rows or columns: everybody would have to download them.
    """
    free: dict[str, tuple[int, ...]] = {}
    for layer in layers(arrays):
        a, b = arrays[layer + A].shape, arrays[layer + B].shape
        if len(a) == len(b) == 2 and a[0] == b[1] and 0 < a[0] <= max(a[1], b[0]):
            free |= {layer + A: (FREE, a[1]), layer + B: (b[0], FREE)}
    return tuple((name, dtype, free.get(name, shape)) for name, dtype, shape in spec_of(arrays))


def beside(arrays: Arrays) -> Arrays:
    """What is trained beside the updates, such as a classification head."""
    rest = rest_of(arrays)
    return {name: value for name, value in rest.items() if not name.endswith(MERGED)}
