"""Which of the clients that a node claims it may be."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from fedapp.wire.messages import Joined


class Disputes:
    """Answers of nodes that claim clients which other nodes are, for as long as both are there.

    A party whose node was killed comes back as another one before Flower, which takes a minute, has noticed
    that the first is gone.

    Args:
        notify: Called with each warning.
    """

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._open: dict[int, Joined] = {}
        self._told: set[int] = set()

    def __bool__(self) -> bool:
        return bool(self._open)

    def again(self, present: Collection[int]) -> dict[int, Joined]:
        """The answers to look at again: of the nodes that are still there."""
        found, self._open = self._open, {}
        return {node: answer for node, answer in found.items() if node in present}

    def settle(
        self, answers: Mapping[int, Joined], nodes: Mapping[int, int], present: Collection[int]
    ) -> dict[int, Joined]:
        """What of the answers counts now; whatever names a client that another node is waits.

        Args:
            answers: By node.
            nodes: Node of each client that joined.
            present: Nodes that are there.
        """
        settled = {}
        for node, answer in answers.items():
            taken = [c for c in answer.clients if nodes.get(c, node) != node and nodes[c] in present]
            if taken:
                self._open[node] = answer
                if node not in self._told:
                    self._notify(
                        f"node {node} claims client {listed(taken)}, which another node is: it is left out "
                        "for as long as that one is there"
                    )
                self._told.add(node)
            free = [at for at, client in enumerate(answer.clients) if client not in taken]
            settled[node] = only(answer, free)
        return settled


def only(answer: Joined, kept: Sequence[int]) -> Joined:
    """An answer with the clients that stand at some of its places."""
    parts = (answer.clients, answer.fingerprints, answer.examples)
    clients, fingerprints, examples = (tuple(part[at] for at in kept) for part in parts)
    return Joined(clients, fingerprints, examples)  # type: ignore[arg-type]


def listed(clients: Sequence[int]) -> str:
    """Clients in a message."""
    return ", ".join(str(client) for client in clients)
