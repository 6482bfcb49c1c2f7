"""The client half of a method, and what both halves declare about themselves.

Everything that a method may or must have stands here and in ``fedapp.server.strategy`` with a
default; nothing is found out by looking for names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from fedapp.core.checks import require_int, require_number
from fedapp.core.model import AdaptedModel
from fedapp.core.payload import DTYPES, Payload
from fedapp.core.public_set import PublicSet
from fedapp.core.session import ClientSession
from fedapp.core.types import Metrics, Shapes, count

Phase = Literal["open", "train", "evaluate"]
"""What a message is for: ``open`` is an exchange that a method needs before round 1."""

OPENING = 0
"""The round number of that exchange."""


@dataclass(frozen=True)
class Needs:
    """What a client routine cannot do without.

    Attributes:
        model: Protocol that the adapted model must follow (``fedapp.core.model``).
        hint: Which adapters do, for the one who chose another; ends a sentence.
        validation_rows: Whether every client must have validation rows.
        public_prompts: Whether the benchmark must have public prompts.
    """

    model: type = AdaptedModel
    hint: str = ""
    validation_rows: bool = False
    public_prompts: bool = False


@dataclass(frozen=True)
class AnswerSizes:
    """What has to be assumed of answers before there are any.

    Attributes:
        prompts: Public prompts answered in a round.
        tokens: Mean length of an answer in tokens.
        bytes_per_token: Mean UTF-8 bytes of a token: about 4 in English for vocabularies of 32,000 to
            128,000 entries (ours).
    """

    prompts: int = 1000
    tokens: float = 64.0
    bytes_per_token: float = 4.0

    def __post_init__(self) -> None:
        require_int("--prompts", self.prompts, at_least=1)
        require_number("--answer-tokens", self.tokens, "(0, inf)")
        require_number("--token-bytes", self.bytes_per_token, "(0, inf)")

    def __str__(self) -> str:
        length = f"{self.tokens:g} tokens an answer, {self.bytes_per_token:g} bytes a token"
        return f"{self.prompts:,} public prompts, {length}"


@dataclass(frozen=True)
class Moment:
    """When a message goes, and what for.

    Attributes:
        server_round: From 1; ``OPENING`` for the exchange before.
        phase: What the message is for.
        answers: What a budget assumes of answers; of no concern to a message that is really sent.
    """

    server_round: int
    phase: Phase = "train"
    answers: AnswerSizes = AnswerSizes()


@dataclass(frozen=True)
class MessageSpec:
    """What a message holds, without the values.

    Attributes:
        shapes: Of its arrays, by name.
        dtype: Of their values on the wire.
        text_bytes: UTF-8 bytes of its texts, exact or expected.
    """

    shapes: Shapes = field(default_factory=dict)
    dtype: str = "float32"
    text_bytes: float = 0.0

    @property
    def num_values(self) -> int:
        """Entries of all arrays."""
        return count(self.shapes)

    @property
    def num_bytes(self) -> float:
        """Payload bytes: arrays as stored and texts, without containers."""
        return self.num_values * DTYPES[self.dtype].itemsize + self.text_bytes


@dataclass(frozen=True)
class TaskFacts:
    """What a run's task is, for a server that keeps tasks.

    Attributes:
        name: The benchmark's.
        version: Of its prompt template.
        labels: Its label words, in order.
        adapter: Settings of the adapter as configured.
    """

    name: str
    version: str
    labels: tuple[str, ...]
    adapter: Mapping[str, Any]


@dataclass(frozen=True)
class RunFacts:
    """What a method's server half may know of its run, and whom it may tell.

    Attributes:
        num_clients, num_rounds: Of the run.
        base_fingerprint: Of the base model of the first client.
        task: Works out what the task is; only when asked, as a server may have no data.
        public: The public prompts, where the client half needs them.
        warn: Takes one line that a reader of the results should know.
        record: ``record(name, row)`` appends to the run's ``<name>.jsonl``.
        resumed: Whether the run goes on: what the method remembered comes next (``ServerStrategy.restore``).
    """

    num_clients: int
    num_rounds: int
    base_fingerprint: str
    task: Callable[[], TaskFacts]
    public: PublicSet | None
    warn: Callable[[str], None]
    record: Callable[[str, Mapping[str, Any]], None]
    resumed: bool = False


class ClientRoutine(ABC):
    """The client half of a method; it holds settings only, its memory is ``session.state``."""

    @property
    def needs(self) -> Needs:
        """What this routine cannot do without; here any adapter and no particular rows."""
        return Needs()

    @abstractmethod
    def train(self, download: Payload, session: ClientSession) -> tuple[Payload, Metrics]:
        """Take in what came, train, and return what to send back."""

    @abstractmethod
    def evaluate(self, download: Payload, session: ClientSession) -> None:
        """Bring ``session.model`` to the state in which this client would use it."""

    @abstractmethod
    def upload(self, parameters: Shapes, moment: Moment) -> MessageSpec:
        """What a client sends at this moment, from the shapes of its adapter's named arrays.

        Raises:
            ClientFailure: If this method finds nothing to send among them; the text says what it needs.
        """

    def open(self, session: ClientSession) -> Payload:
        """What a client sends before round 1, where the server half asks for it (``opens``)."""
        return Payload()
