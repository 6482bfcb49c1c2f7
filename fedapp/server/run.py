"""What a strategy must know of the run that it serves, and who is told of what happens in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from flwr.app import Metadata

from fedapp.core.public_set import PublicSet
from fedapp.server.directory import ClientDirectory
from fedapp.server.replies import Reply, ReplyReader


class Observer(Protocol):
    """Who watches a run: the run folder."""

    def warning(self, message: str) -> None:
        """Something that a reader of the results should know."""

    def reply(self, server_round: int, phase: str, client_id: int, facts: Mapping[str, Any]) -> None:
        """A reply has arrived; nothing of it is checked yet but its client id's type."""

    def traffic(self, row: Mapping[str, Any]) -> None:
        """What one message weighed."""

    def record(self, name: str, row: Mapping[str, Any]) -> None:
        """A row of a method's own statistics, for ``<name>.jsonl``."""

    def round_done(self, server_round: int, phase: str, replies: Sequence[Reply]) -> None:
        """A round's usable replies, sorted by client id."""


@dataclass
class RunPlan:
    """What a strategy must know of the run that it serves.

    Attributes:
        config_json: The composed config, sent along with every message.
        directory: The clients and their nodes.
        observer: Told of everything worth keeping.
        num_rounds, clients_per_round, replies_needed, evaluate_every, seed: See ``RunSettings``.
        join_timeout, round_timeout: Seconds.
        reader: Checks replies.
        max_bytes: Largest payload accepted.
        public: The public prompts, for strategies that ask for them (``needs_public_prompts``).
        sent: Of each phase's last messages, the clients they went to and their metadata. Flower
            fills in the message id when it sends; a reply names that id.
    """

    config_json: str
    directory: ClientDirectory
    observer: Observer
    num_rounds: int
    clients_per_round: int
    replies_needed: int
    evaluate_every: int
    seed: int
    join_timeout: float
    round_timeout: float
    reader: ReplyReader
    max_bytes: int
    public: PublicSet | None = None
    sent: dict[str, list[tuple[int, Metadata]]] = field(default_factory=dict)

    def asked(self, phase: str) -> dict[str, int]:
        """Clients asked in a phase, by the id of the message that asked them."""
        return {metadata.message_id: client for client, metadata in self.sent.get(phase, [])}
