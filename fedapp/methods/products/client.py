"""What a client does whose updates are combined as products."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from fedapp.aggregation import low_rank as rules
from fedapp.core.model import AdaptedModel, LowRankModel
from fedapp.core.payload import Payload
from fedapp.core.session import ClientSession
from fedapp.core.types import Arrays, ClientFailure, Metrics
from fedapp.methods.products.updates import beside, split

_LAST = "last-update"  # in a client's memory: the number of the last update that it has merged


@dataclass(frozen=True)
class LowRankSharing:
    """Merge the updates that came, start from the factors that came, train, send factors back.

    A download without factors means to start afresh (A drawn by the client's own seed, B zero)
    once something has been merged. What is trained beside the updates (a classification head) is
    shared as it is. A client goes on from what it trained itself only where nothing came.
    """

    def check_model(self, model: AdaptedModel) -> None:
        """Refuse adapters that are no products.

        Raises:
            ClientFailure: If this adapter has no trainable factors.
        """
        if not isinstance(model, LowRankModel):
            kind = type(model).__name__
            raise ClientFailure(
                f"this method needs an adapter of low-rank factors (adapter=lora), not {kind}"
            )
        model.factors()

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

    def upload_spec(self, parameters: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
        """Shapes of what a client with these trainable parameters sends.

        Raises:
            ClientFailure: If there are no factors among them.
        """
        if not rules.layers(parameters):
            raise ClientFailure("this method needs an adapter of low-rank factors (adapter=lora)")
        return {name: shape for name, shape in parameters.items() if not name.endswith(rules.MERGED)}

    def _start(self, download: Payload, session: ClientSession, model: LowRankModel) -> tuple[int, Arrays]:
        """Merge and load; the number of the last update merged, and what came beside updates."""
        last = int(session.state.get(_LAST, np.int64(0)))
        kept = {name: value for name, value in session.state.items() if name != _LAST}
        if download.arrays:
            kept = {name: value for name, value in kept.items() if name.endswith(rules.MERGED)}
        model.load(kept)
        updates, given = split(download.arrays)
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
    assert isinstance(model, LowRankModel)  # check_model has seen it
    return model
