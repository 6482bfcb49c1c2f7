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
from fedapp.server.claims import Disputes, listed, only
from fedapp.server.transport import POLL_SECONDS, pull_or_warn, push
from fedapp.wire.limits import Limits, WireError
from fedapp.wire.messages import Failed, Join, Joined
from fedapp.wire.reading import read_joined

Notify = Callable[[str], None]

MOST_OF_ALL = 0.9
"""Share of all training rows from which one client is warned of; ours."""


class ClientDirectory:
    """Clients found through a handshake, each with its node.

    Every node says which clients it holds. As a rule that is one; a simulation with fewer nodes
    than clients lets each node stand in for several, which then take turns. A client belongs to one
    node: two that claim it end the run, unless a seat says whose it is.

    Attributes:
        nodes: Node of each client that joined.
        examples: Training rows that each of them said it has.
    """

    def __init__(
        self,
        variants: Sequence[str],
        fingerprints: Mapping[str, str | None],
        limits: Limits,
        notify: Notify,
        seats: Sequence[int | None] = (),
    ) -> None:
        """Prepare an empty directory.

        Args:
            variants: For each client that the run expects, from number 0, a text that it has in
                common with the clients of the same config (``fedapp.config.composed.Composed.variant``).
            fingerprints: Base model that clients of a variant must have; None takes what most have.
            limits: Most that an answer may hold.
            notify: Called with each warning.
            seats: Node id of each client, None where any node may be it; empty: nowhere is one bound.
        """
        self.num_clients = len(variants)
        self._variants = variants
        self._fingerprints = dict(fingerprints)
        self.limits = limits
        self.notify = notify
        self._seats = {client: seat for client, seat in enumerate(seats) if seat is not None}
        self.nodes: dict[int, int] = {}
        self.examples: dict[int, int] = {}
        self._answers: dict[int, Joined] = {}
        self._refusals: dict[int, str] = {}
        self._claims: dict[int, set[int]] = {}
        self._known: set[int] = set()
        self._pending: dict[str, int] = {}
        self._faults: list[str] = []
        self._disputes = Disputes(notify)

    def join(self, grid: Grid, message: Join, timeout: float, needed: int) -> None:
        """Ask nodes who they are until all clients are there or time is up.

        A node that was asked is waited for even if all clients are claimed by then: who answers first
        does not take the seat of who takes longer. Where every client has its seat nobody can.

        Args:
            grid: Where the nodes are.
            message: What the handshake tells a node.
            timeout: Seconds to wait for all clients.
            needed: Clients without which the run cannot start.

        Raises:
            FederationError: If two nodes claim a client, or fewer than ``needed`` clients joined in time.
            UnreadableReply: If Flower can read no answer at all.
        """
        deadline = time.monotonic() + timeout
        asked, pending, faults = self._known, self._pending, self._faults
        while time.monotonic() < deadline:
            new = [node for node in grid.get_node_ids() if node not in asked]
            messages = [
                Message(message.pack(), dst_node_id=node, message_type="query", group_id="join")
                for node in new
            ]
            asked.update(new)
            pending.update(push(grid, messages))
            arrived = heard = pull_or_warn(grid, list(pending), self.notify, faults)
            while arrived:  # all that are there are heard before anybody is counted
                for message_id, reply in arrived:
                    self._hear(pending.pop(message_id), reply)
                arrived = pull_or_warn(grid, list(pending), self.notify, faults)
            waits = bool(pending) and not self._all_bound()
            if self._heard_of() >= self.num_clients and not waits:
                break
            if not heard:
                time.sleep(POLL_SECONDS)
        self._settle(set(grid.get_node_ids()))
        self._check(needed, timeout)

    def look_again(self, grid: Grid, message: Join) -> list[tuple[int, int]]:
        """Ask nodes that came since the last look who they are, and take in those that have answered.

        Nobody is waited for: who answers later is taken in at the next look.

        Args:
            grid: Where the nodes are.
            message: What the handshake tells a node.

        Returns:
            Clients with their nodes that are there now and were not, or were another node that has left.
        """
        present = set(grid.get_node_ids())
        new = sorted(present - self._known)
        asked = [
            Message(message.pack(), dst_node_id=node, message_type="query", group_id="join") for node in new
        ]
        self._known |= present
        self._pending |= push(grid, asked)
        if not self._pending and not self._disputes:
            return []
        before = dict(self.nodes)
        heard = pull_or_warn(grid, list(self._pending), self.notify, self._faults)
        self._answers, self._refusals = self._disputes.again(present), {}
        for message_id, reply in heard:
            self._hear(self._pending.pop(message_id), reply)
        self._answers = self._disputes.settle(self._answers, self.nodes, present)
        self._take_in()
        return [(client, node) for client, node in sorted(self.nodes.items()) if before.get(client) != node]

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
            answer = read_joined(reply.content, self.limits)
            if strange := sorted(one for one in answer.clients if not 0 <= one < self.num_clients):
                raise WireError(f"it claims client {strange[0]}, outside 0 to {self.num_clients - 1}")
        except WireError as error:
            self._refusals[node] = f"a node cannot join: {error}"
            return
        answer = self._without_false(node, answer)
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
        unnamed = {node for node in self._refusals if node not in self._claims}
        if self._all_bound():  # a node without a seat stands for no client
            unnamed &= set(self._seats.values())
        return len(named & set(range(self.num_clients))) + len(unnamed)

    def _all_bound(self) -> bool:
        return len(self._seats) == self.num_clients

    def _without_false(self, node: int, answer: Joined | Failed) -> Joined | Failed:
        """An answer without the clients whose seats are other nodes'."""
        false = [client for client in answer.clients if self._seats.get(client, node) != node]
        if not false:
            return answer
        owners = listed([self._seats[client] for client in false])
        self.notify(
            f"node {node} claims client {listed(false)}, bound to node {owners} (seats); that is left out"
        )
        kept = [at for at, client in enumerate(answer.clients) if client not in false]
        if isinstance(answer, Failed):
            return Failed(answer.reason, tuple(answer.clients[at] for at in kept))
        return only(answer, kept)

    def _settle(self, present: set[int]) -> None:
        self._require_one_node_each(present)
        self._vote()
        self._take_in()
        self._warn_of_the_greedy()

    def _take_in(self) -> None:
        """Seat all who answered and have the run's base model."""
        for node, answer in sorted(self._answers.items(), key=lambda item: item[1].clients):
            own = dict(zip(answer.clients, answer.fingerprints, strict=True))
            if odd := [client for client in own if own[client] not in ("", self.fingerprint(client))]:
                self._refusals[node] = (
                    f"the node of client {listed(answer.clients)} is refused: its base model is "
                    f"{one_line(own[odd[0]][:16])}, this run's is {str(self.fingerprint(odd[0]))[:16]}"
                )
                continue
            self.nodes |= dict.fromkeys(own, node)
            self.examples |= dict(zip(answer.clients, answer.examples, strict=True))
        for refusal, count in Counter(self._refusals.values()).items():
            self.notify(refusal if count == 1 else f"{refusal} (the same from {count} nodes)")

    def _require_one_node_each(self, present: set[int]) -> None:
        """Two nodes that claim a client end the run, unless one has left and may be back as the other."""
        claimants: dict[int, list[int]] = {}
        for node, answer in sorted(self._answers.items()):
            for client in answer.clients:
                claimants.setdefault(client, []).append(node)
        for client, nodes in sorted(claimants.items()):
            here = [node for node in nodes if node in present]
            if len(nodes) > 1 and len(here) > 1:
                raise FederationError(
                    f"nodes {' and '.join(map(str, here))} both claim client {client}: give each node a "
                    "partition-id of its own, or set seats to the node id of each client"
                )
            for node in nodes:
                if len(nodes) > 1 and node not in here:
                    self._answers.pop(node, None)

    def _warn_of_the_greedy(self) -> None:
        """What no honest federation needs, though it may be one: more clients or rows than all others."""
        held: dict[int, list[int]] = {}
        for client, node in sorted(self.nodes.items()):
            held.setdefault(node, []).append(client)
        least, bound = min(map(len, held.values()), default=0), set(self._seats.values())
        for node, clients in sorted(held.items()):
            if node not in bound and len(clients) > 1 + least:
                self.notify(
                    f"node {node} holds clients {listed(clients)}, another node holds {least}: "
                    "where each party is to be one client, set seats to the node id of each"
                )
        total = sum(self.examples.values())
        for client, count in sorted(self.examples.items()):
            if len(self.examples) > 2 and count > MOST_OF_ALL * total:
                self.notify(
                    f"client {client} says that it has {count} of all {total} training "
                    "rows: where clients count by examples, it decides nearly alone"
                )

    def _vote(self) -> None:
        """Where no base model is prescribed, that of most clients counts; in doubt the first client's."""
        votes: dict[str, list[str]] = {}
        for answer in sorted(self._answers.values(), key=lambda answer: answer.clients):
            for client, value in zip(answer.clients, answer.fingerprints, strict=True):
                if value:  # a party may keep it; it then compares by itself
                    votes.setdefault(self._variants[client], []).append(value)
        for variant, values in votes.items():
            if self._fingerprints[variant] is None:  # a counter keeps the first of equals before the others
                self._fingerprints[variant] = Counter(values).most_common(1)[0][0]

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
            self.notify(f"the run starts without client {listed(missing)}")
