"""Methods whose clients share adapter parameters: FedAvg, FedIT, FedReFT, local-only."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from fedapp.aggregation import Rule
from fedapp.core.checks import require_choice, require_kind, show_value
from fedapp.core.method import ClientRoutine, MessageSpec, Moment, Needs
from fedapp.core.payload import DTYPES, ArraysOnDisk, Payload, State, Upload, UploadsOnDisk
from fedapp.core.session import ClientSession
from fedapp.core.types import Arrays, ClientFailure, Metrics, Shapes
from fedapp.methods.mixing import FixedMixing, Mixing
from fedapp.server.strategy import ServerStrategy

A_RULE = "a rule of fedapp.aggregation"

# What of an intervention leaves the client: R rotates, W and b are the learned source.
# Source: FedReFT compares sharing strategies and shares all; the partial ones here are ours.
SHARED_ROLES = {
    "RWb": r"\.(rotate|weight|bias)$|^head\.",
    "R": r"\.rotate$",
    "Wb": r"\.(weight|bias)$",
    "W": r"\.weight$",
    "b": r"\.bias$",
    "all": r"",
    "none": r"(?!)",
}


@dataclass(frozen=True)
class ParameterSharing(ClientRoutine):
    """Mix own and received parameters, train, send back the shared part.

    Attributes:
        share: What leaves the client: a name of ``SHARED_ROLES`` or a regular expression that is
            searched in parameter names (``lora_A``).
        mixing: How own and received parameters are joined.
        dtype: Type of the values on the wire; clients compute in fp32.
    """

    share: str = "RWb"
    mixing: Mixing = field(default_factory=lambda: FixedMixing(0.0))
    dtype: str = "float32"

    @property
    def needs(self) -> Needs:
        """Validation rows, where the mixing weight is chosen on them."""
        return Needs(validation_rows=self.mixing.needs_validation)

    def __post_init__(self) -> None:
        try:
            re.compile(SHARED_ROLES.get(self.share, self.share))
        except (re.error, TypeError) as error:
            known = ", ".join(SHARED_ROLES)
            raise ValueError(
                f"share={show_value(self.share)} is neither of {known} nor a pattern: {error}"
            ) from None
        require_choice("dtype", self.dtype, ("float32", "float16", "bfloat16"))
        require_kind("mixing", self.mixing, Mixing, "a rule of mixing such as FixedMixing")

    def train(self, download: Payload, session: ClientSession) -> tuple[Payload, Metrics]:
        """Start from the mix of own and received, train, remember the result."""
        metrics = self._start(download, session)
        session.score(_name(metrics), "before")
        loss = session.model.train(session.train_set, session.rng)
        metrics |= {} if math.isnan(loss) else {"train-loss": loss}  # none where nothing is trained
        trained = session.model.parameters()
        session.score("own", "after")
        session.state.clear()
        session.state.update(trained)
        shared = {name: trained[name].astype(DTYPES[self.dtype]) for name in self._shared(trained)}
        return Payload(arrays=shared), metrics

    def evaluate(self, download: Payload, session: ClientSession) -> None:
        """Bring the model to what this client would use after this round."""
        session.metrics.update(self._start(download, session))

    def upload(self, parameters: Shapes, moment: Moment) -> MessageSpec:
        """The shared part.

        Raises:
            ClientFailure: If ``share`` matches no parameter.
        """
        return MessageSpec({name: parameters[name] for name in self._shared(parameters)}, self.dtype)

    def _start(self, download: Payload, session: ClientSession) -> Metrics:
        model = session.model
        if session.state:
            model.load(session.state)
        received = {name: array.astype(np.float32) for name, array in download.arrays.items()}
        if not received:
            return {}
        own = model.parameters()
        self._check(received, own)
        mixed, weight = self.mixing.mix({name: own[name] for name in received}, received, session)
        if weight > 0:
            model.load(own | received)
            session.score("aggregated", "before")
        model.load(own | mixed)
        return {"local-weight": weight}

    def _shared(self, parameters: Iterable[str]) -> list[str]:
        pattern = SHARED_ROLES.get(self.share, self.share)
        names = [name for name in parameters if re.search(pattern, name)]
        if self.share != "none" and not parameters:
            raise ClientFailure("this adapter has no parameters to share: take another, or method=local")
        # A role means a part of the adapter; a classification head alone does not make up for it.
        means_adapter = self.share in SHARED_ROLES and self.share != "none"
        if self.share != "none" and all(means_adapter and name.startswith("head.") for name in names):
            example = min(parameters, key=lambda name: (name.startswith("head."), name))
            part = example.rpartition(".")[2]
            raise ClientFailure(
                f"method.routine.share={self.share!r} matches no parameter of this adapter (such as "
                f"{example}); set method.routine.share=all, or a pattern like {part}"
            )
        return names

    def _check(self, received: Arrays, own: Arrays) -> None:
        expected = set(self._shared(own))
        if set(received) != expected:
            odd = sorted(set(received) ^ expected)[0]
            raise ClientFailure(
                f"the download's arrays are not those that method.routine.share={self.share!r} names: {odd!r}"
            )


def _name(metrics: Metrics) -> str:
    """What the model is before training: its own, what arrived, or a mix of both."""
    weight = metrics.get("local-weight", 1.0)
    return {0.0: "aggregated", 1.0: "own"}.get(weight, "mixed")


class LocalOnly(ServerStrategy):
    """Every client stays alone: nothing is sent in either direction but the messages themselves."""

    equal_shapes: ClassVar[bool] = False

    def download(self, client_id: int, moment: Moment) -> Payload:
        """Nothing."""
        return Payload()

    def aggregate(self, server_round: int, uploads: Sequence[Upload], lost: Sequence[int]) -> None:
        """Nothing to remember."""

    def downloads(self, uploads: Sequence[MessageSpec], moment: Moment) -> list[MessageSpec]:
        """Nothing."""
        return [MessageSpec() for _ in uploads]


class Average(ServerStrategy):
    """Send every client the same combination of all uploads (FedAvg with the plain mean).

    With LoRA adapters and the mean weighted by examples this is FedIT.
    Source: McMahan et al. 2017, https://arxiv.org/abs/1602.05629.
    """

    def __init__(self, combine: Rule) -> None:
        """Take the rule that combines uploads (``fedapp.aggregation``)."""
        require_kind("combine", combine, Rule, A_RULE)
        self.combine = combine
        self.current: Arrays = {}

    def download(self, client_id: int, moment: Moment) -> Payload:
        """The combination; empty until somebody has uploaded."""
        return Payload(arrays=self.current)

    def aggregate(self, server_round: int, uploads: Sequence[Upload], lost: Sequence[int]) -> None:
        """Combine this round's uploads."""
        self.current = self.combine.combine([u.arrays for u in uploads], [u.num_examples for u in uploads])

    def shared(self) -> Arrays:
        """The combination itself."""
        return self.current

    def state(self) -> State:
        """The combination."""
        return State(self.current)

    def restore(self, state: State) -> None:
        """The combination."""
        self.current = state.arrays


class AllButMe(ServerStrategy):
    """Send each client the combination of every other client's parameters.

    A client that did not take part in a round keeps its own parameters and is in nobody's
    combination, unless ``absent`` has its last upload stand for it.
    Source: FedReFT, https://arxiv.org/abs/2508.20295 (the case of clients that do not take part: ours).
    """

    def __init__(self, combine: Rule, absent: str = "without") -> None:
        """Take the rule that combines the others' uploads.

        Args:
            combine: From ``fedapp.aggregation``.
            absent: What a client of which nothing came in a round is to the others: ``without``: nothing;
                ``last``: what it uploaded last, however long ago (ours).
        """
        require_kind("combine", combine, Rule, A_RULE)
        require_choice("absent", absent, ("without", "last"))
        self.combine, self.absent = combine, absent
        self.latest = UploadsOnDisk(())
        self.others = ArraysOnDisk()
        self.everyone: Arrays | None = None

    def download(self, client_id: int, moment: Moment) -> Payload:
        """Everyone but the receiver; empty until somebody else has uploaded."""
        if client_id in self.others:
            return Payload(arrays=self.others[client_id])
        return Payload(arrays=self.shared())

    def aggregate(self, server_round: int, uploads: Sequence[Upload], lost: Sequence[int]) -> None:
        """Combine all leave-one-out sets of this round at once."""
        if self.absent == "last":
            came = dict(self.latest) | {upload.client_id: upload for upload in uploads}
            uploads = [came[client] for client in sorted(came)]
        # Kept on disk: among many clients these two are the largest things on a server.
        self.latest = UploadsOnDisk(uploads)
        self.others = ArraysOnDisk()  # the last round's are let go of before this round's are made
        arrays, weights = [u.arrays for u in uploads], [float(u.num_examples) for u in uploads]
        made = self.combine.leave_one_out(arrays, weights)
        for client, one in zip(self.latest, made, strict=True):  # on disk before the next is asked for
            self.others[client] = one
        self.everyone = None

    def downloads(self, uploads: Sequence[MessageSpec], moment: Moment) -> list[MessageSpec]:
        """As its own upload; nothing for an only client."""
        return super().downloads(uploads, moment) if len(uploads) > 1 else [MessageSpec() for _ in uploads]

    def shared(self) -> Arrays:
        """The same rule over everyone."""
        if self.everyone is None:
            uploads = list(self.latest.values())
            arrays, weights = [u.arrays for u in uploads], [float(u.num_examples) for u in uploads]
            self.everyone = self.combine.combine(arrays, weights) if uploads else {}
        return self.everyone

    def state(self) -> State:
        """The last uploads, and what each client gets of them: where they lie, not read."""
        return State.of({"latest": self.latest.state(), "others": self.others.state()})

    def restore(self, state: State) -> None:
        """The same; what everyone comes to is worked out when it is asked for."""
        self.latest = UploadsOnDisk(state.part("latest").uploads())
        self.others = ArraysOnDisk(state.part("others").each())
