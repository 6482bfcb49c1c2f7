"""What server and client say to each other, typed; ``fedapp.wire.reading`` unpacks and checks it.

What travels beside a payload is JSON; its keys are in kebab-case, as Flower's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from flwr.app import RecordDict

from fedapp.core.method import Phase
from fedapp.core.payload import Payload
from fedapp.core.types import LabelCounts, Metrics
from fedapp.wire.records import Envelope, pack

SPLITS = ("validation", "test")
"""What models are scored on."""
MODELS: dict[str, tuple[str, ...]] = {
    "open": (),
    "train": ("base", "own", "aggregated", "mixed"),
    "evaluate": ("current", "final"),
}
"""What a scored model may be called, by what its client was asked for."""
MOMENTS = ("before", "after")
"""When it was scored: before or after local training."""
COUNTS, DIGEST = "label-counts", "model-digest"
"""What a row of a final model may say beside its scores."""


def beside_scores(counts: LabelCounts, digest: str) -> dict[str, Any]:
    """What of the two is said, as a row holds it."""
    said: dict[str, Any] = {COUNTS: [list(row) for row in counts]} if counts else {}
    return {**said, DIGEST: digest} if digest else said


@dataclass(frozen=True)
class Join:
    """The server asks a node who it is.

    Attributes:
        config: The composed config as JSON; the same text in every message of a run.
    """

    config: str

    def pack(self) -> RecordDict:
        """As Flower's records."""
        return pack(Envelope({"config": self.config}))


@dataclass(frozen=True)
class Joined:
    """A node's answer: it has opened all that a round needs.

    Attributes:
        clients: Numbers of the clients that it holds; none for a node to spare.
        fingerprints: The base model of each.
        examples: Training rows of each, the most that it will count as where clients count by examples.
    """

    clients: tuple[int, ...]
    fingerprints: tuple[str, ...]
    examples: tuple[int, ...]

    def facts(self) -> dict[str, Any]:
        """As a JSON object."""
        return {
            "clients": list(self.clients),
            "fingerprints": list(self.fingerprints),
            "examples": list(self.examples),
        }

    def pack(self) -> RecordDict:
        """As Flower's records."""
        return pack(Envelope(self.facts()))


@dataclass(frozen=True)
class Work:
    """The server asks for a client's part of a round.

    Attributes:
        config: The composed config as JSON.
        client_id: Whose part.
        server_round: From 1; 0 for an exchange before round 1.
        phase: What is to be done.
        fingerprint: The base model that the client must have; None if the run prescribes none.
        final: Whether this is the run's last round.
        download: What this client gets.
        asked_last: The last round before this message in which the client was asked to train: from then is
            the memory that it goes on with. None if it was not.
        run: 16 hex digits that are the run's own, also where it stopped and goes on; empty: it cannot.
        keep: Rounds after which the client keeps its adapter as it was then; this one may be among them.
    """

    config: str
    client_id: int
    server_round: int
    phase: Phase
    fingerprint: str | None
    final: bool
    download: Payload = field(default_factory=Payload)
    asked_last: int | None = None
    run: str = ""
    keep: Sequence[int] = ()

    def pack(self) -> RecordDict:
        """As Flower's records."""
        facts = {
            "config": self.config,
            "client-id": self.client_id,
            "server-round": self.server_round,
            "phase": self.phase,
            "fingerprint": self.fingerprint,
            "final": self.final,
            "asked-last": self.asked_last,
            "run": self.run,
            "keep": list(self.keep),
        }
        return pack(Envelope(facts, self.download))


@dataclass(frozen=True)
class Row:
    """Scores of one model on one split of a client's rows.

    Attributes:
        split: One of ``SPLITS``.
        model: One of ``MODELS``, by what was asked for.
        moment: One of ``MOMENTS``.
        num_examples: Rows scored.
        scores: Loss and metrics by name, the benchmark's main metric before its others.
        counts: Answers counted by target, as in ``benchmarks.counts``; empty where they are not said.
        digest: Of the final model that was scored; clients with the same digest have the same model.
    """

    split: str
    model: str
    moment: str
    num_examples: int
    scores: Metrics
    counts: LabelCounts = ()
    digest: str = ""

    def facts(self) -> dict[str, Any]:
        """As a JSON object, the scores beside the rest."""
        about = {"split": self.split, "model": self.model, "moment": self.moment}
        beside = beside_scores(self.counts, self.digest)
        return {**about, "num-examples": self.num_examples, **self.scores, **beside}


@dataclass(frozen=True)
class ClientSizes:
    """What a client says of itself.

    Attributes:
        train, validation, test: Its numbers of rows.
        parameters: Numbers that it trains.
        tasks: Names of the task families among its training rows.
    """

    train: int = 0
    validation: int = 0
    test: int = 0
    parameters: int = 0
    tasks: tuple[str, ...] = ()

    def facts(self) -> dict[str, Any]:
        """As a JSON object."""
        return {**self.__dict__, "tasks": list(self.tasks)}


@dataclass(frozen=True)
class Done:
    """A client's part of a round.

    Attributes:
        client_id, server_round: As in the ``Work`` that it answers.
        num_examples: Training rows, its weight where clients count by examples.
        metrics: What the routine measured, by name.
        rows: Scores.
        sizes: What the client says of itself.
        seconds: What the work took.
        cpu_seconds: Processor time of it, of all threads of the client's process.
        upload: What the client sends.
        remembers: The round after which the memory was so that the client went on from, 0 if it was not asked
            before; None if it was and has none.
    """

    client_id: int
    server_round: int
    num_examples: int
    metrics: Metrics
    rows: tuple[Row, ...]
    sizes: ClientSizes
    seconds: float
    cpu_seconds: float = 0.0
    upload: Payload = field(default_factory=Payload)
    remembers: int | None = 0

    def facts(self) -> dict[str, Any]:
        """All but the upload, as a JSON object."""
        return {
            "client-id": self.client_id,
            "server-round": self.server_round,
            "num-examples": self.num_examples,
            "metrics": self.metrics,
            "rows": [row.facts() for row in self.rows],
            "seconds": self.seconds,
            "cpu-seconds": self.cpu_seconds,
            "about": self.sizes.facts(),
            "remembers": self.remembers,
        }

    def pack(self) -> RecordDict:
        """As Flower's records."""
        return pack(Envelope(self.facts(), self.upload))


@dataclass(frozen=True)
class Failed:
    """A client, or a node that is asked to join, cannot do its part.

    Attributes:
        reason: One line for people.
        clients: The node's clients, as far as it knows them.
    """

    reason: str
    clients: tuple[int, ...] = ()

    def facts(self) -> dict[str, Any]:
        """As a JSON object."""
        return {"failure": self.reason, "clients": list(self.clients)}

    def pack(self) -> RecordDict:
        """As Flower's records."""
        return pack(Envelope(self.facts()))
