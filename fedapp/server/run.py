"""One run as the server sees it: whom it asks, what it sends and takes, who is told of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from flwr.app import Message, Metadata
from flwr.serverapp import Grid

from fedapp.config.run import RunSettings
from fedapp.core.errors import FederationError
from fedapp.core.method import Moment, RunFacts, TaskFacts
from fedapp.core.payload import Payload, State, Upload
from fedapp.core.public_set import PublicSet
from fedapp.core.sampling import sample
from fedapp.core.types import Arrays
from fedapp.server.deadline import CLOCK_SECONDS, LONGEST_TTL, Deadline
from fedapp.server.directory import ClientDirectory
from fedapp.server.replies import Reply, ReplyReader
from fedapp.server.transport import ask
from fedapp.wire.limits import Limits, WireError
from fedapp.wire.messages import Done, Join, Work
from fedapp.wire.reading import peek_done
from fedapp.wire.records import wire_bytes


class Observer(Protocol):
    """Who watches a run: the run folder."""

    @property
    def key(self) -> str:
        """16 hex digits that are the run's own, also where it is gone on with."""

    def warning(self, message: str) -> None:
        """Something that a reader of the results should know."""

    def reply(self, phase: str, done: Done) -> None:
        """A reply has arrived; its arrays are not looked at yet."""

    def traffic(self, row: Mapping[str, Any]) -> None:
        """What one message weighed."""

    def record(self, name: str, row: Mapping[str, Any]) -> None:
        """A row of a method's own statistics, for ``<name>.jsonl``."""

    def round_done(self, server_round: int, phase: str, replies: Sequence[Reply]) -> None:
        """A round's usable replies, sorted by client id."""

    def rounds_to_keep(self, server_round: int, final: bool) -> Sequence[int]:
        """After which rounds, this one included, clients keep their adapters as they were then."""

    def evaluated(self, server_round: int, shared: Callable[[], Arrays]) -> bool:
        """All models are evaluated; say whether the run's patience is over.

        Args:
            server_round: After which round.
            shared: The adapter for a newcomer, as it is now.
        """

    def keep(self, state: State) -> None:
        """The server as it is once a round's uploads are taken in, to go on from."""


@dataclass
class ServerRun:
    """What the server needs to run a federation, whatever the method.

    Attributes:
        config_json: The composed config, sent along with every message.
        directory: The clients and their nodes.
        observer: Told of everything worth keeping.
        reader: Checks replies.
        settings: Of the run.
        task: Works out what the task is.
        resumed: What ``keep`` kept, where the run goes on, until it is taken over; None for a new run.
        public: The public prompts, for methods whose clients answer them.
        trained: The last round whose uploads had been taken in when the run stopped; 0 for a new run.
        last_round: The round after which the run ends; an earlier one where its patience is over.
        heard: The last round in which a reply of a client to training was used, by client.
        asked_last: For each client the last round in which it was asked to train.
        sent: Of each phase's last messages, the clients they went to and their metadata. Flower
            fills in the message id when it sends; a reply names that id.
    """

    config_json: str
    directory: ClientDirectory
    observer: Observer
    reader: ReplyReader
    settings: RunSettings
    task: Callable[[], TaskFacts]
    resumed: State | None = None
    public: PublicSet | None = None
    trained: int = 0
    last_round: int = field(init=False)
    asked_last: dict[int, int] = field(default_factory=dict)
    heard: dict[int, int] = field(default_factory=dict)
    deadline: Deadline = field(default_factory=Deadline)
    sent: dict[str, list[tuple[int, Metadata]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.last_round = self.settings.num_rounds
        if self.resumed is not None:
            self.trained = int(self.resumed.facts["round"])
            self.asked_last = dict(self.resumed.facts["asked"])
            heard = self.resumed.facts["heard"]  # of an older fedapp: clients alone
            self.heard = dict((one, 0) if isinstance(one, int) else one for one in heard)
            self.deadline = Deadline(self.resumed.facts["took"])
            self.reader.restore(self.resumed.part("reader"))

    def keep(self, server_round: int, method: State, **facts: Any) -> None:
        """Have the observer keep the server's state.

        Args:
            server_round: Whose uploads are taken in.
            method: What the method remembers.
            facts: What the strategy remembers beside it.
        """
        parts = {"method": method, "reader": self.reader.state()}
        asked = list(self.asked_last.items())
        facts |= {"round": server_round, "heard": sorted(self.heard.items()), "took": self.deadline.took}
        self.observer.keep(State.of(parts, asked=asked, **facts))

    def join(self, grid: Grid) -> bool:
        """Find the clients, unless that is done; say whether it was done now.

        Raises:
            FederationError: If too few clients joined in time.
        """
        if self.directory.nodes:
            return False
        settings = self.settings
        self.directory.join(grid, Join(self.config_json), settings.join_timeout, settings.replies_needed)
        return True

    def facts(self) -> RunFacts:
        """What a method may know, once the clients are there."""
        return RunFacts(
            num_clients=self.directory.num_clients,
            num_rounds=self.settings.num_rounds,
            base_fingerprint=str(self.directory.fingerprint(0)),
            task=self.task,
            public=self.public,
            warn=self.observer.warning,
            record=self.observer.record,
            resumed=self.resumed is not None,
        )

    def clients_of(self, moment: Moment) -> list[int]:
        """Who is asked at this moment: the clients drawn, or all where models are evaluated."""
        settings, everybody = self.settings, sorted(self.directory.nodes)
        if moment.phase == "evaluate":
            asked = moment.server_round == self.last_round or settings.evaluates(moment.server_round)
            return everybody if asked else []
        return sample(everybody, settings.clients_per_round, settings.seed, moment.server_round)

    def asked(self, phase: str) -> dict[str, int]:
        """Clients asked in a phase, by the id of the message that asked them."""
        return {metadata.message_id: client for client, metadata in self.sent.get(phase, [])}

    def messages(
        self, moment: Moment, clients: Sequence[int], download: Callable[[int, Moment], Payload]
    ) -> list[Message]:
        """One message for each client, with what the method gives it."""
        messages = []
        sent = self.sent[moment.phase] = []
        final = moment.server_round == self.last_round
        scored = moment.phase == "evaluate"
        keep = self.observer.rounds_to_keep(moment.server_round, final) if scored else ()
        for client_id in clients:
            payload = download(client_id, moment)
            asked_last = self.asked_last.get(client_id)
            if moment.phase != "evaluate":
                self.asked_last[client_id] = moment.server_round
            content = Work(
                config=self.config_json,
                client_id=client_id,
                server_round=moment.server_round,
                phase=moment.phase,
                fingerprint=self.directory.fingerprint(client_id),
                final=final,
                download=payload,
                asked_last=asked_last,
                run=self.observer.key,
                keep=keep,
            ).pack()
            self._count(moment, client_id, "down", payload.num_bytes, wire_bytes(content))
            message = Message(
                content,
                dst_node_id=self.directory.nodes[client_id],
                message_type="evaluate" if moment.phase == "evaluate" else "train",
                group_id=str(moment.server_round),
            )
            messages.append(message)
            sent.append((client_id, message.metadata))
        return messages

    def exchange(
        self, grid: Grid, moment: Moment, messages: list[Message], timeout: float | None
    ) -> list[Message]:
        """Send a phase's messages, a node's clients one after the other; the replies in any order."""
        clients = [client for client, _ in self.sent[moment.phase]]
        by_client = dict(zip(clients, messages, strict=True))
        messages.clear()  # every message holds a download: none is kept longer than it is needed
        replies: list[Message] = []
        waves = self.directory.waves(by_client)
        patience = timeout or self.deadline.patience(self.settings.round_timeout, moment.phase)
        began = time.monotonic()
        sent = dict(self.sent[moment.phase])

        def warn(text: str) -> None:
            self.observer.warning(f"round {moment.server_round}: {text}")

        for number, wave in enumerate(waves, start=1):
            batch = [by_client.pop(client) for client in wave]
            told = partial(self._notice, moment, {client: sent[client] for client in wave}, {})
            for message in batch:  # one that waits when its round is over is not handed out any more
                message.metadata.ttl = min(number * patience + CLOCK_SECONDS, LONGEST_TTL)
            replies += ask(grid, batch, patience, told, warn)
        self.deadline.note(moment.phase, (time.monotonic() - began) / max(len(waves), 1), bool(replies))
        return replies

    def look_again(self, grid: Grid, server_round: int) -> None:
        """Take in clients that came, or came back as another node, since the last round."""
        for client, node in self.directory.look_again(grid, Join(self.config_json)):
            told = f"client {client} is there now (node {node}): it is asked from round {server_round} on"
            self.observer.warning(told)

    def take(self, received: Sequence[Reply], moment: Moment) -> list[Upload]:
        """Tell the observer of a round's usable replies, if they are enough.

        Raises:
            FederationError: If fewer replies are usable than the run needs.
        """
        for reply in received:
            self._count(moment, reply.upload.client_id, "up", reply.upload.num_bytes, reply.wire_bytes)
            self._note_loss(moment, reply)
        if len(received) < (needed := self.settings.replies_needed):
            why = "; ".join(self.reader.last_reasons) or "no reply came in time"
            raise FederationError(
                f"round {moment.server_round}: {len(received)} usable replies of "
                f"{len(self.sent[moment.phase])}, {needed} are needed (min_replies): {why}"
            )
        self.observer.round_done(moment.server_round, moment.phase, received)
        return [reply.upload for reply in received]

    def _notice(
        self, moment: Moment, sent: Mapping[int, Metadata], asked: dict[str, int], reply: Message
    ) -> None:
        """Let the observer see that somebody has answered.

        Args:
            moment: Of the exchange.
            sent: The messages of the wave under way, by client.
            asked: The same by message id; filled with the first reply, when all have theirs.
            reply: What came.
        """
        if not asked:
            asked |= {metadata.message_id: client for client, metadata in sent.items()}
        client = asked.get(reply.metadata.reply_to_message_id)
        if client is None or reply.has_error():
            return
        try:
            limits = self.reader.limits
            done = peek_done(reply.content, client, moment.server_round, moment.phase, limits)
        except WireError:
            return
        if isinstance(done, Done):
            self.observer.reply(moment.phase, done)

    def _note_loss(self, moment: Moment, reply: Reply) -> None:
        """Say so if a client that has sent something before went on without its memory of it."""
        client, had = reply.upload.client_id, -1 if reply.remembers is None else reply.remembers
        if (heard := self.heard.get(client, -1)) > had:
            lost = "of earlier rounds" if had < 0 else f"of round {heard}, from that of round {had}"
            self.observer.warning(
                f"round {moment.server_round}: client {client} goes on without its memory {lost}: its node "
                "was started again, or stored it too late, and its policy names no folder for it (memory)"
            )
        self.heard |= {client: moment.server_round} if moment.phase != "evaluate" else {}

    def _count(self, moment: Moment, client: int, way: str, payload: int, wire: int) -> None:
        self.observer.traffic(
            {
                "server-round": moment.server_round,
                "client-id": client,
                "phase": moment.phase,
                "direction": way,
                "payload-bytes": payload,
                "wire-bytes": wire,
            }
        )


def limits_of(settings: RunSettings) -> Limits:
    """How much the server accepts in a message."""
    return Limits(settings.max_payload_bytes, settings.max_text_bytes, settings.max_examples)
