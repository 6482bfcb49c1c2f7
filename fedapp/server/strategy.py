"""The server half of every method, which is a Flower ``Strategy``.

A method says what each client gets and what the server remembers; every hook that it may have is
declared here with a default. Flower's own hooks are written once, below them, and final: sampling,
lost and malformed replies, order, metrics and traffic are the same for all methods.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from fedapp.config.build import build_as
from fedapp.config.run import RunSettings
from fedapp.core.method import OPENING, ClientRoutine, MessageSpec, Moment, RunFacts
from fedapp.core.payload import Payload, Spec, State, Upload, spec_of
from fedapp.core.types import Arrays
from fedapp.server.run import ServerRun


class ServerStrategy(Strategy, ABC):
    """The server half of a method in terms of payloads and clients."""

    #: What it may know of its run; set when ``begin`` is called.
    run: RunFacts

    #: Whether clients send something before round 1, which ``open`` takes.
    opens: ClassVar[bool] = False

    #: Whether all clients must send the same shapes; where not, ranks may differ (``by_client``).
    equal_shapes: ClassVar[bool] = True

    #: Settings of the adapter that no client may have differently (``by_client``).
    same_settings: ClassVar[tuple[str, ...]] = ()

    # What every method must say.

    @abstractmethod
    def download(self, client_id: int, moment: Moment) -> Payload:
        """What this client gets now; empty before anybody has uploaded."""

    @abstractmethod
    def aggregate(self, server_round: int, uploads: Sequence[Upload], lost: Sequence[int]) -> None:
        """Take in a round's uploads.

        Args:
            server_round: From 1.
            uploads: Sorted by client id; alike part by part, all finite.
            lost: Clients that were asked and of which nothing could be used.
        """

    # What a method may say.

    def check(self, settings: RunSettings, routine: ClientRoutine) -> None:
        """Refuse own settings that the run's other settings leave without effect; here there are none.

        Args:
            settings: Of the run.
            routine: What each client does.

        Raises:
            ValueError: In one line that begins with the setting.
        """

    def begin(self, run: RunFacts) -> None:
        """The clients are there and the rounds begin."""
        self.run = run

    def trains(self, server_round: int) -> bool:
        """Whether clients are asked to train in this round."""
        return True

    def open(self, uploads: Sequence[Upload]) -> None:
        """Take in what clients sent before round 1 (``opens``), sorted by client id."""

    def end(self) -> None:
        """The last round's uploads are taken in."""

    def state(self) -> State:
        """All that it must remember to go on as if nothing had happened; here it remembers nothing."""
        return State()

    def restore(self, state: State) -> None:
        """Take over what ``state`` gave, after ``begin``; arrays in it are its own from then on."""

    def shared(self) -> Arrays:
        """The one adapter that this method would hand to a newcomer; empty if it has none."""
        return {}

    def parts(self, arrays: Arrays) -> dict[str, Arrays]:
        """An upload's arrays in named parts, each compared and measured on its own.

        Raises:
            ValueError: If they are none of what this method's clients send; the upload is left out.
        """
        return {"": arrays}

    def alike(self, arrays: Arrays) -> Spec:
        """What of a part must agree among clients: triples of name, dtype and shape."""
        return spec_of(arrays)

    def downloads(self, uploads: Sequence[MessageSpec], moment: Moment) -> list[MessageSpec]:
        """What each sender gets after a round of these uploads, for ``fedapp budget``.

        Here the names and shapes of its own upload in fp32, as of a mean.

        Args:
            uploads: One per client of the round; the same object for clients that are alike.
            moment: When the downloads go.
        """
        return [MessageSpec(upload.shapes) for upload in uploads]

    # Flower's side, the same for all methods.

    @final
    def attach(self, run: ServerRun) -> None:
        """Attach the strategy to a run, before it starts."""
        self._server_run = run
        self._opened = not self.opens
        self._ended = 0  # the round after which it did

    @final
    def join(self, grid: Grid) -> None:
        """Find the clients and begin, unless that is done; where the run goes on, with what was known."""
        run = self._server_run
        if run.join(grid):
            self.begin(run.facts())
            if run.resumed is not None:
                self._opened, self._ended = run.resumed.facts["opened"], run.resumed.facts["ended"]
                self.restore(run.resumed.part("method"))
                run.resumed = None

    @final
    def summary(self) -> None:
        """Flower's hook for logging settings; the run folder's config.yaml holds them all."""

    @final
    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One message for each client sampled for this round; before round 1, the opening exchange."""
        self.join(grid)
        moment = Moment(server_round, "train")
        if not self.trains(server_round):
            return self._server_run.messages(moment, [], self.download)
        if not self._opened:
            self._open(grid)
        return self._messages(moment)

    @final
    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[None, MetricRecord]:
        """Hand the usable replies to ``aggregate``.

        Raises:
            FederationError: If fewer replies are usable than the run needs.
        """
        metrics = MetricRecord()
        if self.trains(server_round):
            uploads, lost = self._receive(Moment(server_round, "train"), replies)
            self.aggregate(server_round, uploads, lost)
            metrics = _weighted_metrics(uploads)
        self._keep(server_round)
        self._end_after(server_round)
        return None, metrics

    @final
    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One message for each client after the last round and every ``evaluate_every`` rounds."""
        self.join(grid)
        return self._messages(Moment(server_round, "evaluate"))

    @final
    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Collect what the clients measured.

        Raises:
            FederationError: If fewer replies are usable than the run needs.
        """
        run, moment = self._server_run, Moment(server_round, "evaluate")
        asked = run.asked("evaluate")
        if not asked:
            return None
        received = run.reader.read("evaluate", server_round, asked, replies)
        return _weighted_metrics(run.take(received, moment))

    @final
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
        A run that goes on does so with what follows the training of its last round kept; one whose
        patience is over ends with the round that it is in.
        """
        empty, config = ArrayRecord(), ConfigRecord()
        run, result = self._server_run, Result()
        for server_round in range(max(run.trained, 1), (num_rounds or run.settings.num_rounds) + 1):
            if server_round > run.trained:
                run.look_again(grid, server_round)
                messages = self.configure_train(server_round, empty, config, grid)
                replies = run.exchange(grid, Moment(server_round, "train"), messages, timeout)
                _, train_metrics = self.aggregate_train(server_round, _given_away(replies))
                result.train_metrics_clientapp[server_round] = train_metrics
            self._end_after(server_round)
            self._evaluate(grid, server_round, timeout, result)
            scored = server_round < run.last_round and run.settings.evaluates(server_round)
            if scored and run.observer.evaluated(server_round, self.shared):
                run.last_round = server_round
                self._end_after(server_round)
                self._evaluate(grid, server_round, timeout, result)
                break
        return result

    def _evaluate(self, grid: Grid, server_round: int, timeout: float | None, result: Result) -> None:
        run = self._server_run
        messages = self.configure_evaluate(server_round, ArrayRecord(), ConfigRecord(), grid)
        replies = run.exchange(grid, Moment(server_round, "evaluate"), messages, timeout)
        metrics = self.aggregate_evaluate(server_round, _given_away(replies))
        if metrics is not None:
            result.evaluate_metrics_clientapp[server_round] = metrics

    def _keep(self, server_round: int) -> None:
        """Have the run kept as it is once a round's uploads are taken in."""
        self._server_run.keep(server_round, self.state(), opened=self._opened, ended=self._ended)

    def _end_after(self, server_round: int) -> None:
        if server_round == self._server_run.last_round != self._ended:
            self.end()
            self._ended = server_round
            self._keep(server_round)

    def _messages(self, moment: Moment) -> list[Message]:
        return self._server_run.messages(moment, self._server_run.clients_of(moment), self.download)

    def _open(self, grid: Grid) -> None:
        self._opened = True
        moment = Moment(OPENING, "open")
        messages = self._messages(moment)
        replies = self._server_run.exchange(grid, moment, messages, None)
        self.open(self._receive(moment, replies)[0])

    def _receive(self, moment: Moment, replies: Iterable[Message]) -> tuple[list[Upload], list[int]]:
        """The usable uploads of a phase, and the clients of which nothing could be used."""
        run, number = self._server_run, moment.server_round
        asked = run.asked(moment.phase)
        received = run.reader.read(moment.phase, number, asked, replies)
        # What opens a run looks different from what its rounds send, and has a measure of its own.
        reader = run.reader if moment.phase == "train" else run.reader.afresh()
        received = reader.keep_alike(received, number, self.parts, self.alike)
        if moment.phase == "train":
            received = reader.keep_near(received, number, self.parts)
        uploads = run.take(received, moment)
        return uploads, sorted(set(asked.values()) - {upload.client_id for upload in uploads})


def build_strategy(config: Mapping[str, Any]) -> ServerStrategy:
    """The server half of a run's method; errors as in ``build_as``."""
    node = config["method"]["strategy"]
    return build_as(ServerStrategy, node, "method.strategy", "a server strategy of fedapp.methods")  # type: ignore[type-abstract]


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
