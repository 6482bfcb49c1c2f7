"""Replies from the network: checked, named when left out, sorted by client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from flwr.app import Message

from fedapp.core.errors import one_line
from fedapp.core.method import Phase
from fedapp.core.payload import Spec, State, Upload, spec_of
from fedapp.core.types import JUDGED, Arrays
from fedapp.wire.limits import Limits, WireError
from fedapp.wire.messages import ClientSizes, Failed, Row
from fedapp.wire.reading import read_done
from fedapp.wire.records import wire_bytes


@dataclass(frozen=True)
class Reply:
    """A usable reply.

    Attributes:
        upload: The payload with its sender.
        rows: Scores that the client measured.
        sizes: What the client says of itself.
        wire_bytes: Exact size as Flower serialised it.
        remembers: As in ``Done``.
    """

    upload: Upload
    rows: tuple[Row, ...]
    sizes: ClientSizes
    wire_bytes: int
    remembers: int | None = 0


class ReplyReader:
    """Turns messages into replies; whatever cannot be used is left out with a named warning."""

    def __init__(
        self,
        limits: Limits,
        warn: Callable[[str], None],
        max_norm_ratio: float = 0.0,
        examples: Mapping[int, int] | None = None,
    ) -> None:
        """Accept what is within some limits.

        Args:
            limits: Most that a message may hold.
            warn: Called with what is left out and why.
            max_norm_ratio: Largest norm of an upload in medians of the round; 0: any.
            examples: Training rows that each client said it has when it joined; it counts as no more.
        """
        self.limits = limits
        self.max_norm_ratio = max_norm_ratio
        self.warn = warn
        self.examples = {} if examples is None else examples
        self.last_reasons: list[str] = []
        self._usual: dict[str, Spec] = {}  # of each part of an upload, what most clients sent first
        self._scores: tuple[str, ...] | None = None  # what most clients called their scores first
        self._grown: set[int] = set()

    def state(self) -> State:
        """What is usual by now, and who was warned of."""
        usual = {part: [[*row] for row in spec] for part, spec in self._usual.items()}
        return State(facts={"usual": usual, "scores": self._scores, "grown": sorted(self._grown)})

    def restore(self, state: State) -> None:
        """The same."""
        usual, scores = state.facts["usual"], state.facts["scores"]
        self._usual = {part: tuple((n, d, tuple(s)) for n, d, s in spec) for part, spec in usual.items()}
        self._scores = None if scores is None else tuple(scores)
        self._grown = set(state.facts["grown"])

    def afresh(self) -> ReplyReader:
        """A reader to which nothing is usual yet; what it leaves out counts as this one's."""
        reader = ReplyReader(self.limits, self.warn)
        reader.last_reasons = self.last_reasons
        return reader

    def read(
        self, phase: Phase, server_round: int, asked: Mapping[str, int], messages: Iterable[Message]
    ) -> list[Reply]:
        """Check every message on its own.

        Args:
            phase: What was asked for.
            server_round: The round that a reply must name.
            asked: Clients that were asked, by the id of the message that asked them.
            messages: Replies in any order, perhaps some twice.

        Returns:
            One reply a client, sorted by client id.
        """
        self.last_reasons = []
        left: dict[str, list[int | None]] = {}
        found: dict[int, Reply] = {}
        for message in messages:
            # Who answers follows from the message that is answered, not from what the answer claims.
            client_id = asked.get(message.metadata.reply_to_message_id)
            try:
                if client_id is None:
                    raise WireError("it answers a message that was not sent in this round")
                if client_id in found:
                    raise WireError("it is the second answer; the first counts")
                found[client_id] = self._open(message, client_id, server_round, phase)
            except WireError as error:
                left.setdefault(str(error), []).append(client_id)
        for client_id, reason in self._odd_scores(found).items():
            del found[client_id]
            left.setdefault(reason, []).append(client_id)
        for reason, clients in left.items():
            self._leave_out(server_round, _senders(clients), reason)
        explained = {client_id for clients in left.values() for client_id in clients}
        if silent := sorted(set(asked.values()) - set(found) - explained):
            names = ", ".join(map(str, silent))
            self.warn(f"round {server_round}: no reply, {phase} goes on without client {names}")
        return [found[client_id] for client_id in sorted(found)]

    def keep_alike(
        self,
        replies: Sequence[Reply],
        server_round: int,
        parts: Callable[[Arrays], dict[str, Arrays]],
        alike: Callable[[Arrays], Spec] = spec_of,
    ) -> list[Reply]:
        """Keep the replies whose arrays have the names, dtypes and shapes of the majority.

        Each part of an upload is compared with the majority's under the same name; what most sent
        when a part first came stays the measure.

        Args:
            replies: Usable replies of one round.
            server_round: For warnings.
            parts: An upload's arrays in named parts; ValueError if it holds what no part is made of.
            alike: What of a part must agree, as triples like ``spec_of``'s; a negative size stands
                for one that is free.
        """
        found: list[tuple[Reply, dict[str, Spec]]] = []
        for reply in replies:
            try:
                named = parts(reply.upload.arrays)
            except ValueError as error:
                self._leave_out(server_round, _senders([reply.upload.client_id]), one_line(error))
            else:
                found.append((reply, {name: alike(arrays) for name, arrays in named.items()}))
        for part in sorted({part for _, specs in found for part in specs} - set(self._usual)):
            sent = Counter(specs[part] for _, specs in found if part in specs)
            self._usual[part] = sent.most_common(1)[0][0]
        kept = []
        for reply, specs in found:
            odd = next((part for part in sorted(specs) if specs[part] != self._usual[part]), None)
            if odd is None:
                kept.append(reply)
                continue
            name, dtype, shape = sorted(set(specs[odd]) ^ set(self._usual[odd]))[0]
            self._leave_out(
                server_round,
                _senders([reply.upload.client_id]),
                "its arrays are not those of the other clients; "
                f"the first that differs is {name!r}, {dtype} {_sizes(shape)}",
            )
        return kept

    def keep_near(
        self, replies: Sequence[Reply], server_round: int, parts: Callable[[Arrays], dict[str, Arrays]]
    ) -> list[Reply]:
        """Keep the replies whose norm is within ``max_norm_ratio`` medians, part by part.

        Where at least half of the uploads of a part are 0 there is no scale to measure by, and all
        are kept. The limit and its unit are ours.

        Args:
            replies: Usable replies of one round.
            server_round: For warnings.
            parts: An upload's arrays in named parts; each counts as one vector.
        """
        kept = list(replies)
        if not self.max_norm_ratio:
            return kept
        grouped = {reply.upload.client_id: parts(reply.upload.arrays) for reply in replies}
        for part in sorted(set().union(*grouped.values())):
            senders = [reply.upload.client_id for reply in kept if part in grouped[reply.upload.client_id]]
            norms = {client: _norm(grouped[client][part]) for client in senders}
            median = float(np.median(list(norms.values()))) if norms else 0.0
            far = {c: norm for c, norm in norms.items() if median and norm > self.max_norm_ratio * median}
            kept = [reply for reply in kept if reply.upload.client_id not in far]
            named = f" of {part}" if part else ""
            for client, norm in far.items():
                self._leave_out(
                    server_round,
                    _senders([client]),
                    f"its norm {norm:.4g}{named} is {norm / median:.4g} times the median {median:.4g} of the "
                    f"round, more than max_norm_ratio={self.max_norm_ratio:g}",
                )
        return kept

    def _leave_out(self, server_round: int, who: str, reason: str) -> None:
        self.last_reasons.append(f"{who} left out: {reason}")
        self.warn(f"round {server_round}: {who} left out: {reason}")

    def _open(self, message: Message, client_id: int, server_round: int, phase: Phase) -> Reply:
        if message.has_error():
            raise WireError(one_line(message.error.reason or f"Flower reports error {message.error.code}"))
        done = read_done(message.content, client_id, server_round, phase, self.limits)
        if isinstance(done, Failed):
            raise WireError(done.reason)
        count = self._counted(client_id, done.num_examples)
        upload = Upload(done.upload.arrays, done.upload.texts, client_id, count, done.metrics)
        return Reply(upload, done.rows, done.sizes, wire_bytes(message.content), done.remembers)

    def _counted(self, client_id: int, reported: int) -> int:
        """What a client counts as: no more rows than it said it has when it joined."""
        told = self.examples.get(client_id, reported)
        if reported > told and client_id not in self._grown:
            self._grown.add(client_id)
            self.warn(
                f"client {client_id} reports num-examples={reported} and said {told} when it joined: "
                f"it counts as {told}"
            )
        return min(reported, told) or 1

    def _odd_scores(self, found: Mapping[int, Reply]) -> dict[int, str]:
        """Clients whose scores are not those of most clients: a run is summed up by what they share."""
        names = {
            client: {_score_names(row) for row in reply.rows} for client, reply in found.items() if reply.rows
        }
        if self._scores is None and names:
            self._scores = Counter(min(called) for called in names.values()).most_common(1)[0][0]
        usual = ", ".join(self._scores or ())
        return {
            client: f"its scores are not called {usual}, as those of the other clients"
            for client, called in names.items()
            if called != {self._scores}
        }


def _score_names(row: Row) -> tuple[str, ...]:
    """Names of a row's metrics in order; not every row has a loss, or says what its answers are like."""
    return tuple(name for name in row.scores if name not in ("loss", *JUDGED))


def _sizes(shape: Sequence[int]) -> str:
    """A shape in brackets; a size that is free reads ``any``."""
    return f"[{', '.join('any' if size < 0 else str(size) for size in shape)}]"


def _norm(arrays: Mapping[str, np.ndarray]) -> float:
    """Euclidean norm of all arrays as one vector, in fp64."""
    return float(np.sqrt(sum(np.sum(np.square(array.astype(np.float64))) for array in arrays.values())))


def _senders(clients: Sequence[int | None]) -> str:
    """Whose replies, as the subject of a sentence that goes on with "left out"."""
    known = sorted(client for client in clients if client is not None)
    if len(clients) == 1:
        return f"a reply of client {known[0]} is" if known else "a reply is"
    names = f" of clients {', '.join(map(str, known))}" if known else ""
    return f"{len(clients)} replies{names} are"
