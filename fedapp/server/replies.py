"""Replies from the network: checked, named when left out, sorted by client."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from flwr.app import Message

from fedapp.core.errors import one_line
from fedapp.core.payload import Upload, spec
from fedapp.core.types import Arrays
from fedapp.wire.records import WireError, unpack, wire_bytes

MAX_ROWS = 1000


@dataclass(frozen=True)
class Reply:
    """A usable reply.

    Attributes:
        upload: The payload with its sender.
        rows: Scores that the client measured, one mapping a row.
        about: What the client says of itself (number of test examples, tasks).
        wire_bytes: Exact size as Flower serialised it.
    """

    upload: Upload
    rows: list[dict[str, Any]]
    about: dict[str, Any]
    wire_bytes: int


class ReplyReader:
    """Turns messages into replies; whatever cannot be used is left out with a named warning."""

    def __init__(self, max_bytes: int, warn: Callable[[str], None], max_norm_ratio: float = 0.0) -> None:
        """Accept payloads of up to ``max_bytes``; call ``warn`` with what is left out and why.

        ``max_norm_ratio`` is the largest norm of an upload in medians of the round; 0: any.
        """
        self.max_bytes = max_bytes
        self.max_norm_ratio = max_norm_ratio
        self.warn = warn
        self.last_reasons: list[str] = []
        self._spec: Any = None

    def read(
        self, phase: str, server_round: int, asked: Mapping[str, int], messages: Iterable[Message]
    ) -> list[Reply]:
        """Check every message on its own.

        Args:
            phase: ``train`` or ``evaluate``, for warnings.
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
                found[client_id] = self._open(message, client_id, server_round)
            except WireError as error:
                left.setdefault(str(error), []).append(client_id)
        for reason, clients in left.items():
            self._leave_out(server_round, _senders(clients), reason)
        lost = sorted(set(asked.values()) - set(found))
        if lost:
            names = ", ".join(map(str, lost))
            self.warn(f"round {server_round}: {phase} goes on without client {names}")
        return [found[client_id] for client_id in sorted(found)]

    def keep_alike(
        self, replies: Sequence[Reply], server_round: int, spec_of: Callable[[Arrays], Any] = spec
    ) -> list[Reply]:
        """Keep the replies whose arrays have the names, dtypes and shapes of the majority.

        Args:
            replies: Usable replies of one round.
            server_round: For warnings.
            spec_of: What must agree, as triples like ``fedapp.core.payload.spec``'s; a negative size
                stands for one that is free.
        """
        specs = [spec_of(reply.upload.arrays) for reply in replies]
        if self._spec is None and specs:
            self._spec = Counter(specs).most_common(1)[0][0]
        kept = []
        for reply, own in zip(replies, specs, strict=True):
            if own == self._spec:
                kept.append(reply)
                continue
            name, dtype, shape = sorted(set(own) ^ set(self._spec))[0]
            self._leave_out(
                server_round,
                _senders([reply.upload.client_id]),
                "its arrays are not those of the other clients; "
                f"the first that differs is {name!r}, {dtype} {_sizes(shape)}",
            )
        return kept

    def keep_near(
        self, replies: Sequence[Reply], server_round: int, kinds: Callable[[Arrays], dict[str, Arrays]]
    ) -> list[Reply]:
        """Keep the replies whose norm is within ``max_norm_ratio`` medians, for each kind of arrays.

        Where at least half of the uploads of a kind are 0 there is no scale to measure by, and all
        are kept. The limit and its unit are ours.

        Args:
            replies: Usable replies of one round.
            server_round: For warnings.
            kinds: An upload's arrays by kind; those of one kind count as one vector.
        """
        kept = list(replies)
        if not self.max_norm_ratio:
            return kept
        grouped = {reply.upload.client_id: kinds(reply.upload.arrays) for reply in replies}
        for kind in sorted(set().union(*grouped.values())):
            senders = [reply.upload.client_id for reply in kept if kind in grouped[reply.upload.client_id]]
            norms = {client: _norm(grouped[client][kind]) for client in senders}
            median = float(np.median(list(norms.values()))) if norms else 0.0
            far = {c: norm for c, norm in norms.items() if median and norm > self.max_norm_ratio * median}
            kept = [reply for reply in kept if reply.upload.client_id not in far]
            named = f" of {kind}" if kind else ""
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

    def _open(self, message: Message, client_id: int, server_round: int) -> Reply:
        if message.has_error():
            raise WireError(one_line(message.error.reason or f"Flower reports error {message.error.code}"))
        envelope = unpack(message.content, self.max_bytes)
        facts = envelope.facts
        if "failure" in facts:
            raise WireError(one_line(str(facts["failure"])))
        if facts.get("client-id") != client_id:
            raise WireError(f"it calls itself client {facts.get('client-id')!r}")
        if facts.get("server-round") != server_round:
            raise WireError(f"it answers round {facts.get('server-round')!r}")
        for name, array in envelope.payload.arrays.items():
            if array.dtype.kind not in "iu" and not np.isfinite(array.astype(np.float32, copy=False)).all():
                raise WireError(f"its values in {name!r} are not finite")
        num_examples, metrics = _count(facts), _numbers(facts.get("metrics"))
        upload = Upload(envelope.payload.arrays, envelope.payload.texts, client_id, num_examples, metrics)
        about = facts.get("about")
        if not isinstance(about, dict):
            about = {}
        return Reply(upload, _rows(facts.get("rows")), about, wire_bytes(message.content))


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


def _count(facts: Mapping[str, Any]) -> int:
    value = facts.get("num-examples")
    if type(value) is not int or not 0 < value < 2**40:
        raise WireError(f"it reports num-examples={value!r}")
    return value


def _numbers(metrics: Any) -> dict[str, float]:
    if not isinstance(metrics, dict) or not all(type(v) in (int, float) for v in metrics.values()):
        raise WireError("it reports malformed metrics")
    return metrics


def _rows(rows: Any) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or len(rows) > MAX_ROWS:
        raise WireError("it reports malformed scores")
    for row in rows:
        if not isinstance(row, dict) or not all(type(v) in (str, int, float) for v in row.values()):
            raise WireError("it reports malformed scores")
    return rows
