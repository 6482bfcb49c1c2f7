"""The two halves of a method: a client routine and a server strategy.

``PayloadStrategy`` is a Flower ``Strategy``. Sampling, lost and malformed replies, order, metrics
and traffic are dealt with here, once; a method only says what each client gets and what the
server remembers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedapp.core.errors import FederationError
from fedapp.core.payload import Payload, Upload, spec
from fedapp.core.sampling import sample
from fedapp.core.types import Arrays, Shapes
from fedapp.server.replies import Reply
from fedapp.server.run import RunPlan
from fedapp.server.transport import exchange
from fedapp.wire.records import Envelope, WireError, pack, unpack_facts, wire_bytes


class PayloadStrategy(Strategy):
    """A Flower strategy in terms of payloads and clients."""

    plan: RunPlan
    download_dtype = "float32"  # of the values that go down, for ``fedapp budget``

    #: Whether all clients must send the same shapes; where not, ranks may differ (``by_client``).
    equal_shapes: ClassVar[bool] = True

    #: Settings of ``adapter`` that no client may have differently (``by_client``).
    same_settings: ClassVar[tuple[str, ...]] = ()

    def comparable(self, arrays: Arrays) -> Any:
        """What of an upload's arrays must agree among clients: triples of name, dtype and shape."""
        return spec(arrays)

    def kinds(self, arrays: Arrays) -> dict[str, Arrays]:
        """An upload's arrays in groups whose norms are measured apart (``max_norm_ratio``)."""
        return {"": arrays}

    @abstractmethod
    def download(self, client_id: int) -> Payload:
        """What this client gets now; empty before anybody has uploaded."""

    @abstractmethod
    def aggregate(self, uploads: Sequence[Upload]) -> None:
        """Take in a round's uploads, sorted by client id, all of one spec, all finite."""

    def shared(self) -> Arrays:
        """The one adapter that this method would hand to a newcomer; empty if it has none."""
        return {}

    def download_spec(self, uploads: Sequence[Mapping[str, tuple[int, ...]]]) -> list[Shapes]:
        """What each sender gets after a round of these uploads (``fedapp.planning.traffic``).

        Here the names and shapes of its own upload, as of a mean.
        """
        return [dict(upload) for upload in uploads]

    def summary(self) -> None:
        """Flower's hook for logging settings; the run folder's config.yaml holds them all."""

    def check(self, num_clients: int, routine: Any) -> None:
        """Refuse own settings that the run's other settings leave without effect; here there are none.

        Args:
            num_clients: Clients of the run.
            routine: What each client does.

        Raises:
            ValueError: In one line that begins with the setting.
        """

    def prepare(self, plan: RunPlan) -> None:
        """Attach the strategy to a run, before it starts."""
        self.plan = plan

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One message for each client sampled for this round."""
        self.join(grid)
        return self._messages("train", server_round, self._sample(server_round))

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[None, MetricRecord]:
        """Hand the usable replies to ``aggregate``.

        Raises:
            FederationError: If fewer replies are usable than the run needs.
        """
        received = self.plan.reader.read("train", server_round, self.plan.asked("train"), replies)
        received = self.usable(received, server_round)
        received = self.plan.reader.keep_near(received, server_round, self.kinds)
        uploads = self._take(received, "train", server_round)
        self.aggregate(uploads)
        return None, _weighted_metrics(uploads)

    def usable(self, received: Sequence[Reply], server_round: int) -> list[Reply]:
        """The replies that may be combined: those with the majority's names, dtypes and shapes."""
        return self.plan.reader.keep_alike(received, server_round, self.comparable)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One message for each client after the last round and every ``evaluate_every`` rounds."""
        every = self.plan.evaluate_every
        if server_round != self.plan.num_rounds and not (every and server_round % every == 0):
            self.plan.sent["evaluate"] = []
            return []
        self.join(grid)
        return self._messages("evaluate", server_round, sorted(self.plan.directory.nodes))

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Collect what the clients measured."""
        asked = self.plan.asked("evaluate")
        if not asked:
            return None
        received = self.plan.reader.read("evaluate", server_round, asked, replies)
        return _weighted_metrics(self._take(received, "evaluate", server_round))

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord | None = None,
        num_rounds: int | None = None,
        timeout: float | None = None,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: Callable[[int, ArrayRecord], MetricRecord | None] | None = None,
    ) -> Result:
        """Run all rounds.

        The same steps as Flower's own ``start``, which also works with this class. This one looks
        for replies ten times a second and asks a node that stands in for several clients about
        one client at a time. Initial arrays do not exist here: every client starts from the seed.
        """
        empty, config = ArrayRecord(), ConfigRecord()
        result = Result()
        for server_round in range(1, (num_rounds or self.plan.num_rounds) + 1):
            messages = self.configure_train(server_round, empty, config, grid)
            replies = self._exchange(grid, "train", server_round, messages, timeout)
            _, train_metrics = self.aggregate_train(server_round, _given_away(replies))
            result.train_metrics_clientapp[server_round] = train_metrics
            messages = self.configure_evaluate(server_round, empty, config, grid)
            replies = self._exchange(grid, "evaluate", server_round, messages, timeout)
            metrics = self.aggregate_evaluate(server_round, _given_away(replies))
            if metrics is not None:
                result.evaluate_metrics_clientapp[server_round] = metrics
        return result

    def join(self, grid: Grid) -> None:
        """Find the clients, unless that is done."""
        plan = self.plan
        if not plan.directory.nodes:
            facts = {"config": plan.config_json}
            plan.directory.join(grid, facts, plan.join_timeout, plan.replies_needed)

    def _sample(self, server_round: int) -> list[int]:
        plan = self.plan
        return sample(sorted(plan.directory.nodes), plan.clients_per_round, plan.seed, server_round)

    def _messages(self, phase: str, server_round: int, clients: Sequence[int]) -> list[Message]:
        messages = []
        sent = self.plan.sent[phase] = []
        for client_id in clients:
            facts = {
                "config": self.plan.config_json,
                "client-id": client_id,
                "server-round": server_round,
                "fingerprint": self.plan.directory.fingerprint(client_id),
                "final": server_round == self.plan.num_rounds,
            }
            payload = self.download(client_id)
            content = pack(Envelope(facts, payload))
            self._count(server_round, client_id, phase, "down", payload.num_bytes, wire_bytes(content))
            node = self.plan.directory.nodes[client_id]
            message = Message(content, dst_node_id=node, message_type=phase, group_id=str(server_round))
            messages.append(message)
            sent.append((client_id, message.metadata))
        return messages

    def _exchange(
        self, grid: Grid, phase: str, server_round: int, messages: list[Message], timeout: float | None
    ) -> list[Message]:
        clients = [client for client, _ in self.plan.sent[phase]]
        by_client = dict(zip(clients, messages, strict=True))
        messages.clear()  # every message holds a download: none is kept longer than it is needed
        replies: list[Message] = []
        for wave in self.plan.directory.waves(by_client):
            batch = [by_client.pop(client) for client in wave]
            replies += exchange(
                grid,
                batch,
                timeout or self.plan.round_timeout,
                lambda reply: self._notice(phase, server_round, reply),
            )
        return replies

    def _notice(self, phase: str, server_round: int, reply: Message) -> None:
        try:
            facts = {} if reply.has_error() else unpack_facts(reply.content, self.plan.max_bytes)
        except WireError:
            return
        if isinstance(facts.get("client-id"), int) and "failure" not in facts:
            self.plan.observer.reply(server_round, phase, facts["client-id"], facts)

    def _take(self, received: Sequence[Reply], phase: str, server_round: int) -> list[Upload]:
        """Tell the observer of a round's usable replies, if they are enough."""
        for reply in received:
            self._count(
                server_round, reply.upload.client_id, phase, "up", reply.upload.num_bytes, reply.wire_bytes
            )
        if len(received) < self.plan.replies_needed:
            why = "; ".join(self.plan.reader.last_reasons) or "no reply came in time"
            raise FederationError(
                f"round {server_round}: {len(received)} usable replies of {len(self.plan.sent[phase])}, "
                f"{self.plan.replies_needed} are needed (min_replies): {why}"
            )
        self.plan.observer.round_done(server_round, phase, received)
        return [reply.upload for reply in received]

    def _count(self, server_round: int, client: int, phase: str, way: str, payload: int, wire: int) -> None:
        self.plan.observer.traffic(
            {
                "server-round": server_round,
                "client-id": client,
                "phase": phase,
                "direction": way,
                "payload-bytes": payload,
                "wire-bytes": wire,
            }
        )


def _given_away(messages: list[Message]) -> Iterator[Message]:
    """The messages, each let go of before the next: what is read from one takes its place in memory."""
    while messages:
        yield messages.pop(0)


def _weighted_metrics(uploads: Sequence[Upload]) -> MetricRecord:
    """Mean of each metric that all uploads carry, weighted by examples."""
    names = set.intersection(*(set(u.metrics) for u in uploads)) if uploads else set()
    total = sum(u.num_examples for u in uploads)
    means = {n: sum(u.metrics[n] * u.num_examples for u in uploads) / total for n in sorted(names)}
    return MetricRecord({name: float(value) for name, value in means.items()})
