"""Implicit federated in-context learning: vectors once, then 4 coefficients a layer in each round.

Source: IFed-ICL, equations 1 to 7; what it leaves open is a setting here, and says whose choice its
default is. Nobody keeps track of phases: a client does what its download allows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fedapp.aggregation import Combine
from fedapp.methods.base import PayloadStrategy
from fedapp.replies import Reply
from fedapp.run_plan import RunPlan
from fedapp.session import Arrays, ClientFailure, ClientSession, ContextModel, Metrics, Shapes
from fedapp.settings import require_bool, require_choice
from fedapp.task_memory import TaskMemory
from fedapp.wire import DTYPES, Payload, Upload

COEFFICIENTS, VECTORS = "coefficients", "context-vectors"
_WANTED = "wanted"
_MOMENTS = "moments/"
_WIRE_DTYPES = ("float16", "bfloat16", "float32")
_MISSING = "labels-without-examples"


@dataclass(frozen=True)
class ContextSharing:
    """Read the own examples into vectors; once everybody's mean has come, calibrate coefficients.

    Attributes:
        vectors_dtype: Type of the vectors on the wire. Default: the paper's 514 KB are fp16.
        keep_optimiser: Go on with the optimiser's moments of the client's last round (ours); the
            default is a fresh one, as everything else that is trained here.
    """

    vectors_dtype: str = "float16"
    keep_optimiser: bool = False

    def __post_init__(self) -> None:
        require_choice("method.routine.vectors_dtype", self.vectors_dtype, _WIRE_DTYPES)
        require_bool("method.routine.keep_optimiser", self.keep_optimiser)

    def train(self, download: Payload, session: ClientSession) -> tuple[Payload, Metrics]:
        """Send vectors while there are none of everybody's, else calibrated coefficients."""
        if not self._take(download, session):
            return Payload(self._vectors(session)), self._labels(session)
        model = _context_model(session)
        session.score("aggregated", "before")
        if self.keep_optimiser:
            kept = {k.removeprefix(_MOMENTS): v for k, v in session.state.items() if k.startswith(_MOMENTS)}
            model.resume(kept)
        metrics = {"train-loss": model.train(session.train_set, session.rng)}
        session.score("own", "after")
        if self.keep_optimiser:
            session.state.update({_MOMENTS + name: value for name, value in model.moments().items()})
        arrays = {COEFFICIENTS: model.parameters()[COEFFICIENTS]}
        if VECTORS in download.texts.get(_WANTED, []):
            arrays |= self._vectors(session)
            metrics |= self._labels(session)
        return Payload(arrays), metrics

    def evaluate(self, download: Payload, session: ClientSession) -> None:
        """Inject what came; the bare base model answers while nobody has sent vectors."""
        self._take(download, session)

    def upload_spec(self, parameters: Mapping[str, tuple[int, ...]]) -> Shapes:
        """Shapes of what a client sends in a steady round, from the adapter's parameters."""
        return {COEFFICIENTS: tuple(parameters[COEFFICIENTS])}

    def first_upload_spec(self, parameters: Mapping[str, tuple[int, ...]]) -> Shapes:
        """Shapes of a client's first upload, which has ``vectors_dtype``."""
        return {VECTORS: tuple(parameters[VECTORS])}

    @property
    def first_dtype(self) -> str:
        """Type of the first upload's values."""
        return self.vectors_dtype

    def _take(self, download: Payload, session: ClientSession) -> bool:
        """Load vectors and coefficients, remember the vectors; say whether there are any."""
        model, state = _context_model(session), session.state
        if not download.arrays:
            return False
        if VECTORS in download.arrays:
            state[VECTORS] = download.arrays[VECTORS]
        if VECTORS not in state:
            raise ClientFailure(
                f"client {session.client_id} no longer has the context vectors (its memory is empty); "
                "it gets them again when it is next asked to train"
            )
        model.load({**download.arrays, VECTORS: state[VECTORS].astype(np.float32)})
        return True

    def _vectors(self, session: ClientSession) -> Arrays:
        vectors = _context_model(session).encode(session.train_set)
        with np.errstate(over="ignore"):
            sent = vectors.astype(DTYPES[self.vectors_dtype])
        if not np.isfinite(sent.astype(np.float32)).all():
            raise ClientFailure(
                f"the context vectors reach {np.abs(vectors).max():g}, beyond the range of "
                f"method.routine.vectors_dtype={self.vectors_dtype}: set it to bfloat16 or float32"
            )
        return {VECTORS: sent}

    def _labels(self, session: ClientSession) -> Metrics:
        """How many labels of the benchmark the client has no example of."""
        known = len(getattr(session.model, "labels", ()))
        present = {example.label for example in session.train_set}
        return {"num-demonstrations": len(session.train_set), _MISSING: max(known - len(present), 0)}


def _context_model(session: ClientSession) -> ContextModel:
    if not callable(getattr(session.model, "encode", None)):
        raise ClientFailure("this method needs an adapter that reads demonstrations: set adapter=context")
    return cast(ContextModel, session.model)


class ContextAggregation(PayloadStrategy):
    """Combine vectors when they come, coefficients in each round; send each client what it lacks.

    A client holds the vectors once its reply to a message that rested on them was usable; until
    then, or when a reply of it is missing, it gets them (again). Clients that join late calibrate
    with what the others' vectors gave; with ``late_vectors`` they send theirs along, and everybody
    gets the new combination.
    """

    def __init__(
        self,
        combine: Combine,
        vectors_dtype: str = "float16",
        late_vectors: bool = False,
        memory: TaskMemory | None = None,
    ) -> None:
        """Set up a server that has heard of nobody.

        Args:
            combine: The rule for vectors and coefficients. The paper's is the uniform mean.
            vectors_dtype: Type of the vectors on the wire.
            late_vectors: Ask clients that were not there for the first vectors for theirs (ours);
                the paper takes those of the first round's participants.
            memory: What is known of this task from earlier runs; None keeps nothing.
        """
        require_choice("vectors_dtype", vectors_dtype, _WIRE_DTYPES)
        require_bool("late_vectors", late_vectors)
        if not callable(getattr(combine, "combine", None)):
            raise ValueError(
                f"combine={combine!r} must be a mapping with _target_, a rule of fedapp.aggregation"
            )
        self.combine, self.late_vectors = combine, late_vectors
        self.dtype = self.first_download_dtype = vectors_dtype
        self.memory = memory or TaskMemory()
        self.sources: dict[int, Upload] = {}
        self.vectors: np.ndarray | None = None
        self.coefficients: np.ndarray | None = None
        self.holding: set[int] = set()
        self.skips_training = False
        self._specs: dict[str, tuple[str, tuple[int, ...]]] = {}

    def download(self, client_id: int) -> Payload:
        """What this client lacks; empty until there are vectors."""
        if self.vectors is None:
            return Payload()
        arrays: Arrays = {}
        if self.coefficients is not None:
            arrays[COEFFICIENTS] = self.coefficients
        if client_id not in self.holding:
            arrays[VECTORS] = self.vectors.astype(DTYPES[self.dtype])
        asks = self.late_vectors and client_id not in self.sources
        return Payload(arrays, {_WANTED: [VECTORS]} if asks else {})

    def aggregate(self, uploads: Sequence[Upload]) -> None:
        """Combine what came of either kind."""
        self.holding |= {u.client_id for u in uploads if COEFFICIENTS in u.arrays}
        calibrated = [u for u in uploads if COEFFICIENTS in u.arrays]
        if calibrated:
            self.coefficients = self._combined(calibrated, COEFFICIENTS)
        seen = [u for u in uploads if VECTORS in u.arrays]
        if seen and (self.vectors is None or self.late_vectors):
            self.sources |= {u.client_id: u for u in seen}
            everyone = [self.sources[client] for client in sorted(self.sources)]
            by_examples = self.combine.weighting == "examples"
            count = sum(u.num_examples for u in everyone) if by_examples else len(everyone)
            self.vectors = self.memory.extend(self._combined(everyone, VECTORS), count)
            self.holding = set()

    def shared(self) -> Arrays:
        """Vectors and coefficients: what a newcomer needs."""
        both = {VECTORS: self.vectors, COEFFICIENTS: self.coefficients}
        return {name: value for name, value in both.items() if value is not None}

    def download_spec(self, uploads: Sequence[Mapping[str, tuple[int, ...]]]) -> list[Shapes]:
        """What each client gets in a steady round: the coefficients."""
        return [{COEFFICIENTS: tuple(upload[COEFFICIENTS])} for upload in uploads]

    def first_download_spec(self, uploads: Sequence[Mapping[str, tuple[int, ...]]]) -> list[Shapes]:
        """What each client gets after the first round: the vectors."""
        return [{VECTORS: tuple(upload[VECTORS])} for upload in uploads]

    def _combined(self, uploads: Sequence[Upload], name: str) -> np.ndarray:
        weights = [float(u.num_examples) for u in uploads]
        return self.combine.combine([{name: u.arrays[name]} for u in uploads], weights)[name]

    # What follows ties the above to a run.

    def join(self, grid: Grid) -> None:
        """Find the clients, then look the task up."""
        first = not self.plan.directory.nodes
        super().join(grid)
        if first:
            self._recall(self.plan)

    def _recall(self, plan: RunPlan) -> None:
        found = self.memory.recall(plan.config_json, str(plan.directory.fingerprint(0)))
        if found is None:
            if plan.num_rounds == 1:
                plan.observer.warning(
                    "num_rounds=1 gathers context vectors and calibrates and stores nothing: set 2 or more"
                )
            return
        self.coefficients = found.coefficients
        if self.memory.on_hit == "reuse":
            self.vectors, self.skips_training = found.vectors.astype(np.float32), True
        plan.observer.warning(self.memory.describe_hit(found))

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> list[Message]:
        """One message for each client of the round; none where the task is known."""
        self.join(grid)
        if not self.skips_training:
            return super().configure_train(server_round, arrays, config, grid)
        self.plan.sent["train"] = []
        return []

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple[None, MetricRecord]:
        """Aggregate; after the last round, keep the task."""
        if self.skips_training:
            return None, MetricRecord()
        # A client whose reply is missing may have lost its memory with its process.
        self.holding -= set(self.plan.asked("train").values())
        _, metrics = super().aggregate_train(server_round, replies)
        if self.coefficients is not None and self.vectors is not None:
            alike = self.memory.warm_start(self.coefficients)
            if alike is not None and server_round < self.plan.num_rounds:
                self.coefficients = alike.coefficients
                self.plan.observer.warning(alike.message)
            if server_round == self.plan.num_rounds:
                self.memory.keep(self.coefficients, server_round)
        return None, metrics

    def usable(self, received: Sequence[Reply], server_round: int) -> list[Reply]:
        """Leave out replies with other arrays than the majority has under the same names.

        Vectors and coefficients may come in one round, from clients that joined at different times,
        so each kind is compared with its own.
        """
        for name in (VECTORS, COEFFICIENTS):
            sent = [r.upload.arrays[name] for r in received if name in r.upload.arrays]
            specs = [(str(array.dtype), array.shape) for array in sent]
            if name not in self._specs and specs:
                self._specs[name] = Counter(specs).most_common(1)[0][0]
        kept = []
        for reply in received:
            complaint = self._complaint(reply.upload.arrays)
            if complaint:
                text = f"a reply of client {reply.upload.client_id} is left out: {complaint}"
                self.plan.reader.last_reasons.append(text)
                self.plan.observer.warning(f"round {server_round}: {text}")
            else:
                kept.append(reply)
        self._warn_of_labels(kept, server_round)
        return kept

    def _complaint(self, arrays: Arrays) -> str:
        wanted = f"{VECTORS} or {COEFFICIENTS}"
        if not arrays or not set(arrays) <= {VECTORS, COEFFICIENTS}:
            return f"it holds {', '.join(sorted(arrays)) or 'nothing'} where {wanted} were to come"
        for name, array in sorted(arrays.items()):
            dtype, shape = self._specs[name]
            if (str(array.dtype), array.shape) != (dtype, shape):
                own = f"{array.dtype} {list(array.shape)}"
                return f"its {name} are {own}, the other clients' {dtype} {list(shape)}"
        return ""

    def _warn_of_labels(self, replies: Sequence[Reply], server_round: int) -> None:
        lacking = {r.upload.client_id: r.upload.metrics.get(_MISSING, 0) for r in replies}
        named = [f"client {client} of {count:.0f}" for client, count in sorted(lacking.items()) if count > 0]
        if named:
            self.plan.observer.warning(
                f"round {server_round}: labels without an example: {', '.join(named)}; "
                "the vectors of these clients say nothing about those labels"
            )
