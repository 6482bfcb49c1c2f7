"""Methods that combine LoRA's updates as products: FLoRA, FedEx-LoRA, FlexLoRA.

The mean of A times the mean of B is not the mean of the products. These methods keep the products:
by stacking the factors, by sending what the means lack, or by decomposing the sum again.

A client remembers the number of the last update that it has merged (``fedapp.methods.products.updates``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from fedapp.aggregation import low_rank as rules
from fedapp.aggregation import weighted_mean
from fedapp.core.method import MessageSpec, Moment
from fedapp.core.payload import Payload, Spec, State, Upload
from fedapp.core.types import Arrays, Shapes
from fedapp.methods.products.updates import UpdateLog, spec_without_ranks, update_name
from fedapp.server.strategy import ServerStrategy


class Stack(ServerStrategy):
    """Send everybody's factors to everybody; clients merge the weighted sum of the products.

    Ranks may differ. Each client starts the next round with a fresh update.
    Source: FLoRA, https://arxiv.org/abs/2409.05976 (rounds that a client misses: ours).
    """

    equal_shapes: ClassVar[bool] = False

    def __init__(self) -> None:
        self.log = UpdateLog()
        self.beside: Arrays = {}

    def alike(self, arrays: Arrays) -> Spec:
        """Names, dtypes and sizes; ranks are free."""
        return spec_without_ranks(arrays)

    def download(self, client_id: int, moment: Moment) -> Payload:
        """All updates that the client has not confirmed, and the mean of what is trained beside."""
        return Payload(arrays=self.log.since_confirmed(client_id) | self.beside)

    def aggregate(self, server_round: int, uploads: Sequence[Upload], lost: Sequence[int]) -> None:
        """Stack this round's factors."""
        arrays, counts = _arrays(uploads), _counts(uploads)
        self.beside = _mean_beside(uploads)
        self.log.append(rules.stack(arrays, counts), [u.client_id for u in uploads])
        self.log.forget(lost)

    def shared(self) -> Arrays:
        """The sum of all updates, dense."""
        return rules.product(self.log.updates) | self.beside

    def state(self) -> State:
        """All updates, and what is trained beside them."""
        return State.of({"log": self.log.state(), "beside": State(self.beside)})

    def restore(self, state: State) -> None:
        """The same."""
        self.log.restore(state.part("log"))
        self.beside = state.part("beside").arrays

    def downloads(self, uploads: Sequence[MessageSpec], moment: Moment) -> list[MessageSpec]:
        """Each client gets the ranks of all; see ``ServerStrategy``."""
        first = uploads[0].shapes
        found = dict(rules.rest_of(first))
        for layer in rules.layers(first):
            rank = sum(upload.shapes[layer + rules.A][0] for upload in uploads)
            found |= _update_shapes(first, layer, rank)
        return [MessageSpec(found)] * len(uploads)


class ExactAverage(ServerStrategy):
    """Send the means of A and B, and as an update to merge what their product lacks.

    Source: FedEx-LoRA, https://arxiv.org/abs/2410.09432 (weights by examples as in FedAvg, and rounds
    that a client misses: ours).
    """

    def __init__(self) -> None:
        self.log = UpdateLog()
        self.means: Arrays = {}

    def download(self, client_id: int, moment: Moment) -> Payload:
        """The means, and all residuals that the client has not confirmed."""
        return Payload(arrays=self.log.since_confirmed(client_id) | self.means)

    def aggregate(self, server_round: int, uploads: Sequence[Upload], lost: Sequence[int]) -> None:
        """Average this round's factors and find the residual."""
        means, residual = rules.mean_and_residual(_arrays(uploads), _counts(uploads))
        self.means = means | _mean_beside(uploads)
        self.log.append(residual, [u.client_id for u in uploads])
        self.log.forget(lost)

    def shared(self) -> Arrays:
        """The sum of all residuals and products, dense."""
        if not self.means:
            return {}
        return rules.product([*self.log.updates, self.means]) | rules.rest_of(self.means)

    def state(self) -> State:
        """All residuals, and the means."""
        return State.of({"log": self.log.state(), "means": State(self.means)})

    def restore(self, state: State) -> None:
        """The same."""
        self.log.restore(state.part("log"))
        self.means = state.part("means").arrays

    def downloads(self, uploads: Sequence[MessageSpec], moment: Moment) -> list[MessageSpec]:
        """Means of an upload's shapes, residuals of K - 1 times its rank; see ``ServerStrategy``."""
        first = uploads[0].shapes
        found = dict(first)
        for layer in rules.layers(first):
            rank = (len(uploads) - 1) * first[layer + rules.A][0]
            found |= _update_shapes(first, layer, rank)
        return [MessageSpec(found)] * len(uploads)


class Redistribute(ServerStrategy):
    """Send each client the best approximation, at its own rank, of the weighted sum of the products.

    Nothing is merged: an adapter holds the whole update. A client whose rank is not known yet gets
    the largest rank seen and cuts it to its own.
    Source: FlexLoRA, https://arxiv.org/abs/2402.11505 (the largest rank for unknown clients: ours).
    """

    equal_shapes: ClassVar[bool] = False

    def __init__(self) -> None:
        self.ranks: dict[int, dict[str, int]] = {}
        self.current: Arrays = {}
        self.beside: Arrays = {}

    def alike(self, arrays: Arrays) -> Spec:
        """Names, dtypes and sizes; ranks are free."""
        return spec_without_ranks(arrays)

    def download(self, client_id: int, moment: Moment) -> Payload:
        """The decomposed sum at this client's rank; empty until somebody has uploaded."""
        if not self.current:
            return Payload()
        ranks = self.ranks.get(client_id) or self._largest()
        return Payload(arrays=rules.truncate(self.current, ranks) | self.beside)

    def aggregate(self, server_round: int, uploads: Sequence[Upload], lost: Sequence[int]) -> None:
        """Decompose the sum of this round's products."""
        arrays = _arrays(uploads)
        self.current = rules.decompose(arrays, _counts(uploads))
        self.beside = _mean_beside(uploads)
        for upload in uploads:
            layers = rules.layers(upload.arrays)
            self.ranks[upload.client_id] = {layer: len(upload.arrays[layer + rules.A]) for layer in layers}

    def shared(self) -> Arrays:
        """The sum at the largest rank seen, dense."""
        if not self.current:
            return {}
        return rules.product([rules.truncate(self.current, self._largest())]) | self.beside

    def state(self) -> State:
        """The decomposed sum, what is trained beside it, and each client's ranks."""
        parts = {"current": State(self.current), "beside": State(self.beside)}
        return State.of(parts, ranks=list(self.ranks.items()))

    def restore(self, state: State) -> None:
        """The same."""
        self.current, self.beside = state.part("current").arrays, state.part("beside").arrays
        self.ranks = dict(state.facts["ranks"])

    def downloads(self, uploads: Sequence[MessageSpec], moment: Moment) -> list[MessageSpec]:
        """The shapes of each upload, as far as a product can have its rank; see ``ServerStrategy``."""
        downloads = []
        for upload in uploads:
            found = dict(upload.shapes)
            for layer in rules.layers(upload.shapes):
                (rank, width), (height, _) = found[layer + rules.A], found[layer + rules.B]
                total = sum(other.shapes[layer + rules.A][0] for other in uploads)
                rank = min(rank, total, width, height)
                found |= {layer + rules.A: (rank, width), layer + rules.B: (height, rank)}
            downloads.append(MessageSpec(found))
        return downloads

    def _largest(self) -> dict[str, int]:
        seen = list(self.ranks.values())
        return {layer: max(ranks[layer] for ranks in seen) for layer in rules.layers(self.current)}


def _arrays(uploads: Sequence[Upload]) -> list[Arrays]:
    return [upload.arrays for upload in uploads]


def _counts(uploads: Sequence[Upload]) -> list[float]:
    return [float(upload.num_examples) for upload in uploads]


def _mean_beside(uploads: Sequence[Upload]) -> Arrays:
    """What is trained beside the updates, averaged as in FedAvg."""
    return weighted_mean([rules.rest_of(upload.arrays) for upload in uploads], _counts(uploads))


def _update_shapes(upload: Shapes, layer: str, rank: int) -> Shapes:
    """Shapes of a layer's first update to merge."""
    width, height = upload[layer + rules.A][1], upload[layer + rules.B][0]
    return {update_name(1, layer + rules.A): (rank, width), update_name(1, layer + rules.B): (height, rank)}
