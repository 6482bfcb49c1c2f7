"""Implicit federated in-context learning: vectors once, then 4 coefficients a layer in each round.

Source: IFed-ICL, equations 3 and 7; what it leaves open is a setting here, and says whose choice
its default is. The client's side is ``fedapp.methods.ifed_icl.client``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid

from fedapp.aggregation import Combine
from fedapp.core.checks import require_bool, require_choice
from fedapp.core.model import COEFFICIENTS, VECTORS
from fedapp.core.payload import DTYPES, Payload, Upload
from fedapp.core.types import Arrays, Shapes
from fedapp.methods.ifed_icl.memory import TaskMemory
from fedapp.methods.ifed_icl.names import MISSING, READ_BY, WANTED, WIRE_DTYPES
from fedapp.server.replies import Reply
from fedapp.server.run import RunPlan
from fedapp.server.strategy import PayloadStrategy


class ContextAggregation(PayloadStrategy):
    """Combine vectors when they come, coefficients in each round; send each client what it lacks.

    A client holds the vectors once its reply to a message that rested on them was usable; until
    then, or when a reply of it is missing, it gets them (again). Clients that join late calibrate
    with what the others' vectors gave; with ``late_vectors`` they send theirs along, and everybody
    gets the new combination.
    """

    same_settings: ClassVar[tuple[str, ...]] = READ_BY

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
        require_choice("vectors_dtype", vectors_dtype, WIRE_DTYPES)
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
        self.skips_training = self._calibrated = False
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
        return Payload(arrays, {WANTED: [VECTORS]} if asks else {})

    def aggregate(self, uploads: Sequence[Upload]) -> None:
        """Combine what came of either kind."""
        self.holding |= {u.client_id for u in uploads if COEFFICIENTS in u.arrays}
        calibrated = [u for u in uploads if COEFFICIENTS in u.arrays]
        if calibrated:
            self.coefficients, self._calibrated = self._combined(calibrated, COEFFICIENTS), True
        seen = [u for u in uploads if VECTORS in u.arrays]
        if seen and (self.vectors is None or self.late_vectors):
            self.sources |= {u.client_id: u for u in seen}
            everyone = [self.sources[client] for client in sorted(self.sources)]
            by_examples = _weighting(self.combine) == "examples"
            count = sum(u.num_examples for u in everyone) if by_examples else len(everyone)
            self.vectors = self.memory.extend(self._combined(everyone, VECTORS), count)
            self.holding = set()

    def kinds(self, arrays: Arrays) -> dict[str, Arrays]:
        """Vectors and coefficients have nothing in common to be measured by."""
        return {name: {name: array} for name, array in arrays.items()}

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
        reused = found is not None and self.memory.on_hit == "reuse"
        if plan.num_rounds == 1 and not reused:
            plan.observer.warning(
                "num_rounds=1 calibrates nothing, it only gathers context vectors: set 2 or more"
            )
        if found is None:
            return
        self.coefficients = found.coefficients
        if reused:
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
                self.memory.keep(self.coefficients, server_round if self._calibrated else None)
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
        lacking = {r.upload.client_id: r.upload.metrics.get(MISSING, 0) for r in replies}
        named = [f"client {client} of {count:.0f}" for client, count in sorted(lacking.items()) if count > 0]
        if named:
            self.plan.observer.warning(
                f"round {server_round}: labels without an example: {', '.join(named)}; "
                "the vectors of these clients say nothing about those labels"
            )


def _weighting(combine: Any) -> str:
    """That of a rule, or of the rule that it wraps."""
    while hasattr(combine, "rule"):
        combine = combine.rule
    return str(getattr(combine, "weighting", "uniform"))
