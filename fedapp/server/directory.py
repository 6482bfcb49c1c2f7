"""Which node holds which client, and messages to nodes with their replies.

Node ids are Flower's and new in every run; everything else knows clients by ``client_id``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from flwr.app import Message
from flwr.serverapp import Grid

from fedapp.core.errors import FederationError, one_line
from fedapp.server.transport import POLL_SECONDS, pull, push
from fedapp.wire.messages import Failed, Join, Joined
from fedapp.wire.reading import read_joined
from fedapp.wire.records import WireError

Notify = Callable[[str], None]


class ClientDirectory:
    """Clients found through a handshake, each with its node.

    Every node says which clients it holds. As a rule that is one; a simulation with fewer nodes
    than clients lets each node stand in for several, which then take turns.
    """

    def __init__(
        self, variants: Sequence[str], fingerprints: Mapping[str, str | None], max_bytes: int, notify: Notify
    ) -> None:
        """Prepare an empty directory.

        Args:
            variants: For each client that the run expects, from number 0, a text that it has in
                common with the clients of the same config (``fedapp.config.composed.Composed.variant``).
            fingerprints: Base model that clients of a variant must have; None takes what most have.
            max_bytes: Largest answer accepted.
            notify: Called with each warning.
        """
        self.num_clients = len(variants)
        self._variants = variants
        self._fingerprints = dict(fingerprints)
        self.max_bytes = max_bytes
        self.notify = notify
        self.nodes: dict[int, int] = {}
        self._answers: dict[int, Joined] = {}
        self._refusals: dict[int, str] = {}
        self._claims: dict[int, set[int]] = {}

    def join(self, grid: Grid, message: Join, timeout: float, needed: int) -> None:
        """Ask nodes who they are until all clients are there or time is up.

        Args:
            grid: Where the nodes are.
            message: What the handshake tells a node.
            timeout: Seconds to wait for all clients.
            needed: Clients without which the run cannot start.

        Raises:
            FederationError: If fewer than ``needed`` clients joined in time.
        """
        deadline = time.monotonic() + timeout
        asked: set[int] = set()
        pending: dict[str, int] = {}
        while time.monotonic() < deadline:
            new = [node for node in grid.get_node_ids() if node not in asked]
            messages = [
                Message(message.pack(), dst_node_id=node, message_type="query", group_id="join")
                for node in new
            ]
            asked.update(new)
            pending |= push(grid, messages)
            arrived = pull(grid, list(pending))
            for message_id, reply in arrived:
                self._hear(pending.pop(message_id), reply)
            if self._heard_of() >= self.num_clients:
                break
            if not arrived:
                time.sleep(POLL_SECONDS)
        self._settle()
        self._check(needed, timeout)

    def fingerprint(self, client_id: int) -> str | None:
        """The base model that a client must have; None before anybody has joined."""
        return self._fingerprints[self._variants[client_id]]

    def waves(self, clients: Iterable[int]) -> list[list[int]]:
        """Group clients so that no group asks one node twice; each group is sorted."""
        groups: list[list[int]] = []
        turns: Counter[int] = Counter()
        for client in sorted(clients):
            turn = turns[self.nodes[client]]
            turns[self.nodes[client]] += 1
            if turn == len(groups):
                groups.append([])
            groups[turn].append(client)
        return groups

    def _hear(self, node: int, reply: Message) -> None:
        try:
            if reply.has_error():
                raise WireError(one_line(reply.error.reason or f"Flower reports error {reply.error.code}"))
            answer = read_joined(reply.content, self.max_bytes)
        except WireError as error:
            self._refusals[node] = f"a node cannot join: {error}"
            return
        if answer.clients:
            self._claims[node] = set(answer.clients)
        if isinstance(answer, Failed):
            self._refusals[node] = f"a node cannot join: {answer.reason}"
        elif answer.clients:  # else a node to spare: the run has fewer clients than there are nodes
            self._answers[node] = answer

    def _heard_of(self) -> int:
        """How many clients are accounted for; a node that could not even say counts as one."""
        named: set[int] = set()
        for clients in self._claims.values():
            named |= clients
        unnamed = sum(node not in self._claims for node in self._refusals)
        return len(named & set(range(self.num_clients))) + unnamed

    def _settle(self) -> None:
        self._vote()
        for node, answer in sorted(self._answers.items(), key=lambda item: item[1].clients):
            known = [c for c in answer.clients if 0 <= c < self.num_clients]
            for client in sorted(set(answer.clients) - set(known)):
                self.notify(f"a node claims client {client}, outside 0 to {self.num_clients - 1}; left out")
            own = dict(zip(answer.clients, answer.fingerprints, strict=True))
            if odd := [client for client in known if own[client] not in ("", self.fingerprint(client))]:
                self._refusals[node] = (
                    f"the node of client {_listed(answer.clients)} is refused: its base model is "
                    f"{own[odd[0]][:16]}, this run's is {str(self.fingerprint(odd[0]))[:16]}"
                )
                continue
            for client in known:
                if client in self.nodes:
                    self.notify(f"two nodes claim client {client}; the second one is left out")
                else:
                    self.nodes[client] = node
        for refusal, count in Counter(self._refusals.values()).items():
            self.notify(refusal if count == 1 else f"{refusal} (the same from {count} nodes)")

    def _vote(self) -> None:
        """Where no base model is prescribed, that of most clients counts; in doubt the first client's."""
        votes: dict[str, list[str]] = {}
        for answer in sorted(self._answers.values(), key=lambda answer: answer.clients):
            for client, value in zip(answer.clients, answer.fingerprints, strict=True):
                if (
                    value and 0 <= client < self.num_clients
                ):  # a party may keep it; it then compares by itself
                    votes.setdefault(self._variants[client], []).append(value)
        for variant, values in votes.items():
            if self._fingerprints[variant] is None:  # max takes the first of equals
                self._fingerprints[variant] = max(values, key=values.count)

    def _check(self, needed: int, timeout: float) -> None:
        missing = sorted(set(range(self.num_clients)) - set(self.nodes))
        if len(self.nodes) < needed:
            reason = next(
                iter(self._refusals.values()), f"no other node joined within join_timeout={timeout:g} s"
            )
            raise FederationError(
                f"{len(self.nodes)} of num_clients={self.num_clients} clients joined, "
                f"{needed} are needed: {reason}"
            )
        if missing:
            self.notify(f"the run starts without client {_listed(missing)}")


def _listed(clients: Sequence[int]) -> str:
    return ", ".join(str(client) for client in clients)
