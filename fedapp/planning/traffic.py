"""The bytes of a run's messages, as the two halves of a method declare them.

A client half says what goes up (``ClientRoutine.upload``), a server half what comes down
(``ServerStrategy.downloads``); rounds, drawn clients and evaluations are counted as the server runs
them. Bytes are those of the values, as ``payload-bytes`` of traffic.jsonl.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from fedapp.config.run import RunSettings
from fedapp.core.method import OPENING, AnswerSizes, ClientRoutine, MessageSpec, Moment
from fedapp.core.sampling import sample
from fedapp.core.types import Shapes
from fedapp.server.strategy import ServerStrategy


@dataclass
class RoundTraffic:
    """Uploads of a round, and the downloads that follow from them.

    Attributes:
        uploads: What each client sends; one object for clients that are alike.
        strategy: What the server sends after them.
    """

    uploads: Sequence[MessageSpec]
    strategy: ServerStrategy
    _downloads: dict[tuple[object, ...], list[MessageSpec]] = field(default_factory=dict)

    def up_bytes(self, clients: Sequence[int]) -> float:
        """Bytes that these clients send together."""
        return sum(self.uploads[client].num_bytes for client in clients)

    def down(self, senders: Sequence[int], moment: Moment) -> list[MessageSpec]:
        """What each sender gets after a round of theirs; worked out once for like senders."""
        uploads = [self.uploads[client] for client in senders]
        key = (moment.phase, *(id(upload) for upload in uploads))
        if key not in self._downloads:
            self._downloads[key] = self.strategy.downloads(uploads, moment)
        return self._downloads[key]

    def down_bytes(self, senders: Sequence[int], clients: Sequence[int], moment: Moment) -> float:
        """Bytes for these clients after a round of these senders; who missed it is taken for one more."""
        known = dict(zip(senders, self.down(senders, moment), strict=True))
        for client in set(clients) - set(known):
            everyone = sorted([*senders, client])
            known[client] = self.down(everyone, moment)[everyone.index(client)]
        return sum(known[client].num_bytes for client in clients)


@dataclass
class RunTraffic:
    """All messages of a run.

    Attributes:
        settings: Of the run.
        routine, strategy: The two halves of its method.
        clients: Shapes of each client's named arrays; the same object for clients that are alike.
        answers: What is assumed of answers, where clients send these.
    """

    settings: RunSettings
    routine: ClientRoutine
    strategy: ServerStrategy
    clients: Sequence[Shapes]
    answers: AnswerSizes
    _known: list[tuple[dict[int, MessageSpec], RoundTraffic]] = field(default_factory=list)

    def usual(self) -> RoundTraffic:
        """A round in the middle of a long run."""
        return self._round(Moment(2, "train", self.answers))

    def total_bytes(self) -> tuple[int, int]:
        """Bytes up and down over all rounds, for the clients that the run's seed draws.

        A round: a download for every client drawn (empty before anybody has sent anything), its
        upload; where the round ends with an evaluation, a download for every client of the
        federation and nothing back.
        """
        settings, everybody = self.settings, list(range(self.settings.num_clients))
        up = down = 0.0
        before: tuple[RoundTraffic, list[int]] | None = None
        first = OPENING if self.strategy.opens else 1
        for number in range(first, settings.num_rounds + 1):
            moment = Moment(number, "open" if number == OPENING else "train", self.answers)
            traffic = self._round(moment)
            drawn = sample(everybody, settings.clients_per_round, settings.seed, number)
            if before:
                down += before[0].down_bytes(before[1], drawn, moment)
            up += traffic.up_bytes(drawn)
            before = traffic, drawn
            if settings.evaluates(number):
                down += traffic.down_bytes(drawn, everybody, replace(moment, phase="evaluate"))
        return round(up), round(down)

    def _round(self, moment: Moment) -> RoundTraffic:
        """The round of a moment; rounds with the same uploads share one, and what it has worked out."""
        distinct = {id(shapes): shapes for shapes in self.clients}
        uploads = {key: self.routine.upload(shapes, moment) for key, shapes in distinct.items()}
        for known, traffic in self._known:
            if known == uploads:
                return traffic
        traffic = RoundTraffic([uploads[id(shapes)] for shapes in self.clients], self.strategy)
        self._known.append((uploads, traffic))
        return traffic
