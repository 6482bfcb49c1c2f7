"""Fed-SB: the clients agree on a subspace once, then share the small matrices trained in it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid

from fedapp.aggregation import joint_subspace
from fedapp.core.checks import require_choice, require_number, show_value
from fedapp.core.model import AdaptedModel
from fedapp.core.payload import DTYPES, Payload, Upload
from fedapp.core.session import ClientSession
from fedapp.core.types import Arrays, ClientFailure, Example, Metrics, Shapes
from fedapp.server.replies import ReplyReader
from fedapp.server.strategy import PayloadStrategy

AGREEMENT = 0
"""The exchange before round 1 in which the clients send their estimates of the subspace."""

_FROZEN = re.compile(r"\.sb_[AB]$")
_LEFT, _CORE, _RIGHT = ".sb_B", ".sb_R", ".sb_A"
_NEEDS = "this method needs an adapter that trains a matrix between two frozen ones (adapter=lora_sb)"


class SubspaceModel(AdaptedModel, Protocol):
    """A model whose update is B R A: R is trained, B and A are the same on all clients."""

    def estimate(self, examples: Sequence[Example], rng: np.random.Generator) -> Arrays:
        """Low-rank factors ``….sb_B`` and ``….sb_A`` of the client's first step; empty if not needed."""


class Combine(Protocol):
    """A rule of ``fedapp.aggregation``."""

    def combine(self, arrays: Sequence[Arrays], weights: Sequence[float]) -> Arrays:
        """One combination of all."""


@dataclass(frozen=True)
class SubspaceSharing:
    """Send an estimate of the subspace before round 1; then take the mean R, train it, send it back.

    B and A stay in the client's memory once they have come. Everything else that is trained, a
    classification head with it, is shared.

    Attributes:
        dtype: Type of the trained values on the wire; clients compute in fp32.

    Source: Fed-SB, https://arxiv.org/abs/2502.15436.
    """

    dtype: str = "float32"
    first_dtype: ClassVar[str] = "float32"

    def __post_init__(self) -> None:
        require_choice("method.routine.dtype", self.dtype, ("float32", "float16", "bfloat16"))

    def check_model(self, model: AdaptedModel) -> None:
        """Refuse adapters without such matrices.

        Raises:
            ClientFailure: If this adapter has none.
        """
        if not callable(getattr(model, "estimate", None)):
            raise ClientFailure(f"{_NEEDS}, not {type(model).__name__}")

    def train(self, download: Payload, session: ClientSession) -> tuple[Payload, Metrics]:
        """Answer with the estimate, or do a round's training."""
        if session.server_round == AGREEMENT:
            return Payload(arrays=self._estimate(session)), {}
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

    def upload_spec(self, parameters: Mapping[str, tuple[int, ...]]) -> Shapes:
        """Shapes of what a client with these parameters sends in a round.

        Raises:
            ClientFailure: If no matrix between two others is among them.
        """
        if not any(name.endswith(_CORE) for name in parameters):
            raise ClientFailure(_NEEDS)
        return {name: shape for name, shape in parameters.items() if not _FROZEN.search(name)}

    def first_upload_spec(self, parameters: Mapping[str, tuple[int, ...]]) -> Shapes:
        """Shapes of a client's estimate, always sent in fp32."""
        return {name: shape for name, shape in parameters.items() if _FROZEN.search(name)}

    def _start(self, download: Payload, session: ClientSession) -> None:
        if session.state:
            session.model.load(session.state)
        session.model.load({name: array.astype(np.float32) for name, array in download.arrays.items()})

    @staticmethod
    def _estimate(session: ClientSession) -> Arrays:
        found: Arrays = session.model.estimate(session.train_set, session.rng)  # type: ignore[attr-defined]
        return found


class SharedSubspace(PayloadStrategy):
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

    asks_ahead: ClassVar[bool] = True  # for ``fedapp budget``: an exchange before round 1

    def __init__(self, combine: Combine, init_step: float = 1e-6) -> None:
        """Take the rule that combines the R's, and the size of the step that R starts with.

        Args:
            combine: From ``fedapp.aggregation``; the plain or weighted mean keeps the exactness.
            init_step: Step size of the first step; the public code's is that of the first step of
                its warm-up (1.5e-7 with its settings for commonsense). 0 starts from the base model.
        """
        if not callable(getattr(combine, "combine", None)):
            raise ValueError(
                f"combine={show_value(combine)} must be a mapping with _target_, "
                "a class with the method combine"
            )
        require_number("init_step", init_step, "[0, inf)")
        self.combine, self.init_step = combine, init_step
        self.subspace: Arrays | None = None  # B and A; None until the clients were asked
        self.current: Arrays = {}
        self._holders: set[int] = set()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One message for each client sampled; before the first ones, agree on the subspace."""
        if self.subspace is None:
            self.join(grid)
            self._agree(grid)
        return super().configure_train(server_round, arrays, config, grid)

    def download(self, client_id: int) -> Payload:
        """The mean of R, with B and A for who may not have them; empty while the clients are asked."""
        if self.subspace is None or client_id in self._holders:
            return Payload(arrays=self.current)
        return Payload(arrays={**self.subspace, **self.current})

    def aggregate(self, uploads: Sequence[Upload]) -> None:
        """Combine this round's R's."""
        self.current = self.combine.combine([u.arrays for u in uploads], [u.num_examples for u in uploads])
        answered = {upload.client_id for upload in uploads}
        # Who was asked in vain may have lost its memory: it gets everything again.
        self._holders = (self._holders - self._asked()) | answered

    def shared(self) -> Arrays:
        """The whole update."""
        return {**(self.subspace or {}), **self.current}

    def choose(self, uploads: Sequence[Upload]) -> None:
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

    def download_spec(self, uploads: Sequence[Mapping[str, tuple[int, ...]]]) -> list[Shapes]:
        """Shapes of what each client gets once it has B and A."""
        return [dict(upload) for upload in uploads]

    def first_download_spec(self, uploads: Sequence[Shapes]) -> list[Shapes]:
        """Shapes of B and A, as in an estimate, and of the first R."""
        cores = {
            name.removesuffix(_RIGHT) + _CORE: (shape[0], shape[0])
            for name, shape in uploads[0].items()
            if name.endswith(_RIGHT)
        }
        return [{**upload, **cores} for upload in uploads]

    def _agree(self, grid: Grid) -> None:
        messages = self._messages("train", AGREEMENT, self._sample(AGREEMENT))
        replies = self._exchange(grid, "train", AGREEMENT, messages, None)
        received = self.plan.reader.read("train", AGREEMENT, self.plan.asked("train"), replies)
        # Uploads of the rounds look different, so a reader of its own finds what is usual here.
        reader = ReplyReader(self.plan.max_bytes, self.plan.observer.warning)
        self.choose(self._take(reader.keep_alike(received, AGREEMENT), "train", AGREEMENT))

    def _asked(self) -> set[int]:
        plan: Any = getattr(self, "plan", None)
        return set(plan.asked("train").values()) if plan else set()
