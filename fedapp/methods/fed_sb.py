"""Fed-SB: the clients agree on a subspace once, then share the small matrices trained in it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedapp.aggregation import Rule, joint_subspace
from fedapp.core.checks import require_choice, require_kind, require_number
from fedapp.core.method import ClientRoutine, MessageSpec, Moment, Needs
from fedapp.core.model import SubspaceModel
from fedapp.core.payload import DTYPES, Payload, State, Upload
from fedapp.core.session import ClientSession
from fedapp.core.types import Arrays, ClientFailure, Metrics, Shapes
from fedapp.server.strategy import ServerStrategy

_FROZEN = re.compile(r"\.sb_[AB]$")
_LEFT, _CORE, _RIGHT = ".sb_B", ".sb_R", ".sb_A"
_NEEDS = "an adapter that trains a matrix between two frozen ones (adapter=lora_sb)"


@dataclass(frozen=True)
class SubspaceSharing(ClientRoutine):
    """Send an estimate of the subspace before round 1; then take the mean R, train it, send it back.

    B and A stay in the client's memory once they have come. Everything else that is trained, a
    classification head with it, is shared.

    Attributes:
        dtype: Type of the trained values on the wire; clients compute in fp32.

    Source: Fed-SB, https://arxiv.org/abs/2502.15436.
    """

    dtype: str = "float32"

    def __post_init__(self) -> None:
        require_choice("dtype", self.dtype, ("float32", "float16", "bfloat16"))

    @property
    def needs(self) -> Needs:
        """An adapter with such matrices."""
        return Needs(model=SubspaceModel, hint=_NEEDS)

    def open(self, session: ClientSession) -> Payload:
        """The client's estimate of the subspace, from its own training rows."""
        return Payload(arrays=self._model(session).estimate(session.train_set, session.rng))

    def train(self, download: Payload, session: ClientSession) -> tuple[Payload, Metrics]:
        """Do a round's training."""
        self._start(download, session)
        session.score("aggregated" if download.arrays else "own", "before")
        metrics = {"train-loss": session.model.train(session.train_set, session.rng)}
        trained = session.model.parameters()
        session.score("own", "after")
        session.state.clear()
        session.state.update(trained)
        shared = {n: trained[n].astype(DTYPES[self.dtype]) for n in trained if not _FROZEN.search(n)}
        return Payload(arrays=shared), metrics

    def evaluate(self, download: Payload, session: ClientSession) -> None:
        """Bring the model to what this client would use after this round."""
        self._start(download, session)

    def upload(self, parameters: Shapes, moment: Moment) -> MessageSpec:
        """Before round 1 the estimate, in fp32; then all that is trained.

        Raises:
            ClientFailure: If no matrix between two others is among the parameters.
        """
        if not any(name.endswith(_CORE) for name in parameters):
            raise ClientFailure(f"this method needs {_NEEDS}")
        opening = moment.phase == "open"
        sent = {name: shape for name, shape in parameters.items() if bool(_FROZEN.search(name)) == opening}
        return MessageSpec(sent, "float32" if opening else self.dtype)

    def _start(self, download: Payload, session: ClientSession) -> None:
        if session.state:
            session.model.load(session.state)
        session.model.load({name: array.astype(np.float32) for name, array in download.arrays.items()})

    @staticmethod
    def _model(session: ClientSession) -> SubspaceModel:
        assert isinstance(session.model, SubspaceModel)  # as needed
        return session.model


class SharedSubspace(ServerStrategy):
    """Choose B and A from the clients' estimates, then send everybody the mean of all R.

    With B and A equal everywhere the mean of R is the mean of the updates B R A, exactly. Before
    round 1 the server asks the clients of one sample for rank-r factors of the first step of full
    fine-tuning on their own data, takes the leading singular vectors of the mean step, weighted by
    examples, and sends them along with R to every client that has not yet answered with a trained R.
    R starts at ``init_step`` times the singular values.

    Source: Fed-SB, https://arxiv.org/abs/2502.15436; initial values as in LoRA-SB,
    https://arxiv.org/abs/2411.19557. The public code estimates the step on the pooled data of all
    clients; that the clients do it, in factors, and the server joins them is ours.
    """

    opens: ClassVar[bool] = True

    def __init__(self, combine: Rule, init_step: float = 1e-6) -> None:
        """Take the rule that combines the R's, and the size of the step that R starts with.

        Args:
            combine: From ``fedapp.aggregation``; the plain or weighted mean keeps the exactness.
            init_step: Step size of the first step; the public code's is that of the first step of
                its warm-up (1.5e-7 with its settings for commonsense). 0 starts from the base model.
        """
        require_kind("combine", combine, Rule, "a rule of fedapp.aggregation")
        require_number("init_step", init_step, "[0, inf)")
        self.combine, self.init_step = combine, init_step
        self.subspace: Arrays | None = None  # B and A; None until the clients have answered
        self.current: Arrays = {}
        self._holders: set[int] = set()

    def download(self, client_id: int, moment: Moment) -> Payload:
        """The mean of R, with B and A for who may not have them; empty while the clients are asked."""
        if self.subspace is None or client_id in self._holders:
            return Payload(arrays=self.current)
        return Payload(arrays={**self.subspace, **self.current})

    def aggregate(self, server_round: int, uploads: Sequence[Upload], lost: Sequence[int]) -> None:
        """Combine this round's R's."""
        self.current = self.combine.combine([u.arrays for u in uploads], [u.num_examples for u in uploads])
        # Who was asked in vain may have lost its memory: it gets everything again.
        self._holders = (self._holders - set(lost)) | {upload.client_id for upload in uploads}

    def shared(self) -> Arrays:
        """The whole update."""
        return {**(self.subspace or {}), **self.current}

    def open(self, uploads: Sequence[Upload]) -> None:
        """Find B, A and the first R from the clients' estimates.

        Raises:
            ValueError: If an estimate is not made of pairs of factors that fit.
        """
        self.subspace = {}
        weights = [float(upload.num_examples) for upload in uploads]
        names = [name.removesuffix(_LEFT) for name in uploads[0].arrays if name.endswith(_LEFT)]
        for name in names:
            lefts = [upload.arrays[name + _LEFT] for upload in uploads]
            rights = [upload.arrays[name + _RIGHT] for upload in uploads]
            left, values, right = joint_subspace(lefts, rights, weights, len(rights[0]))
            self.subspace |= {name + _LEFT: left, name + _RIGHT: right}
            self.current[name + _CORE] = np.diag(values * np.float32(self.init_step))

    def state(self) -> State:
        """The subspace, the mean in it, and who has the subspace."""
        parts = {"subspace": State(self.subspace or {}), "current": State(self.current)}
        return State.of(parts, found=self.subspace is not None, holders=sorted(self._holders))

    def restore(self, state: State) -> None:
        """The same."""
        self.subspace = state.part("subspace").arrays if state.facts["found"] else None
        self.current = state.part("current").arrays
        self._holders = set(state.facts["holders"])

    def downloads(self, uploads: Sequence[MessageSpec], moment: Moment) -> list[MessageSpec]:
        """After the estimates B, A and the first R; then R."""
        cores = {
            name.removesuffix(_RIGHT) + _CORE: (shape[0], shape[0])
            for name, shape in uploads[0].shapes.items()
            if name.endswith(_RIGHT)
        }
        return [MessageSpec({**upload.shapes, **cores}) for upload in uploads]
