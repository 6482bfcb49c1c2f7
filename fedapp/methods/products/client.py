"""What a client does whose updates are combined as products."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedapp.aggregation import low_rank as rules
from fedapp.core.method import ClientRoutine, MessageSpec, Moment, Needs
from fedapp.core.model import AdaptedModel, LowRankModel
from fedapp.core.payload import Payload
from fedapp.core.session import ClientSession
from fedapp.core.types import Arrays, ClientFailure, Metrics, Shapes
from fedapp.methods.products.updates import beside, split_updates

_LAST = "last-update"  # in a client's memory: the number of the last update that it has merged


@dataclass(frozen=True)
class LowRankSharing(ClientRoutine):
    """Merge the updates that came, start from the factors that came, train, send factors back.

    A download without factors means to start afresh (A drawn by the client's own seed, B zero)
    once something has been merged. What is trained beside the updates (a classification head) is
    shared as it is. A client goes on from what it trained itself only where nothing came.
    """

    @property
    def needs(self) -> Needs:
        """An adapter whose updates are products."""
        return Needs(model=LowRankModel, hint="an adapter of low-rank factors (adapter=lora)")

    def train(self, download: Payload, session: ClientSession) -> tuple[Payload, Metrics]:
        """Bring the base up to date, train one round's update, send it."""
        model = _low_rank(session.model)
        last, given = self._start(download, session, model)
        if last and download.arrays and not rules.layers(given):
            model.redraw(session.rng)
        session.score("aggregated" if download.arrays else "own", "before")
        loss = model.train(session.train_set, session.rng)
        session.score("own", "after")
        trained = model.parameters()
        session.state.clear()
        session.state.update(trained)
        session.state[_LAST] = np.array(last, np.int64)
        return Payload(arrays=model.factors() | beside(trained)), {"train-loss": loss}

    def evaluate(self, download: Payload, session: ClientSession) -> None:
        """Bring base and adapter to what the federation has agreed on."""
        self._start(download, session, _low_rank(session.model))

    def upload(self, parameters: Shapes, moment: Moment) -> MessageSpec:
        """Both factors of every update, and what is trained beside them.

        Raises:
            ClientFailure: If there are no pairs of factors among the parameters.
        """
        if not rules.layers(parameters):
            raise ClientFailure(
                "this method needs an adapter of low-rank factors, both of them trained "
                "(adapter=lora adapter.freeze_a=false)"
            )
        return MessageSpec({name: s for name, s in parameters.items() if not name.endswith(rules.MERGED)})

    def _start(self, download: Payload, session: ClientSession, model: LowRankModel) -> tuple[int, Arrays]:
        """Merge and load; the number of the last update merged, and what came beside updates."""
        last = int(session.state.get(_LAST, np.int64(0)))
        kept = {name: value for name, value in session.state.items() if name != _LAST}
        if download.arrays:
            kept = {name: value for name, value in kept.items() if name.endswith(rules.MERGED)}
        model.load(kept)
        updates, given = split_updates(download.arrays)
        for number in sorted(updates):
            if number > last + 1:
                raise ClientFailure(
                    f"client {session.client_id} has merged the updates up to {last}, but update {number} "
                    "came next: its memory between rounds is lost"
                )
            if number == last + 1:
                model.merge(updates[number])
                last = number
        if rules.layers(given):
            model.load_factors(rules.fit(rules.factors_of(given), model.factors()))
        model.load(rules.rest_of(given))
        return last, given


def _low_rank(model: AdaptedModel) -> LowRankModel:
    assert isinstance(model, LowRankModel)  # as needed
    return model
