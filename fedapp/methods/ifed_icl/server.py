"""Implicit federated in-context learning: vectors once, then 4 coefficients a layer in each round.

Source: IFed-ICL, equations 3 and 7; what it leaves open is a setting here, and says whose choice
its default is. The client's side is ``fedapp.methods.ifed_icl.client``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from fedapp.aggregation import Rule
from fedapp.core.checks import require_bool, require_choice, require_kind
from fedapp.core.method import MessageSpec, Moment, RunFacts
from fedapp.core.model import COEFFICIENTS, VECTORS
from fedapp.core.payload import DTYPES, Payload, State, Upload
from fedapp.core.types import Arrays
from fedapp.methods.ifed_icl.memory import TaskMemory
from fedapp.methods.ifed_icl.names import MISSING, READ_BY, WANTED, WIRE_DTYPES
from fedapp.server.strategy import ServerStrategy


class ContextAggregation(ServerStrategy):
    """Combine vectors when they come, coefficients in each round; send each client what it lacks.

    A client holds the vectors once its reply to a message that rested on them was usable; until
    then, or when a reply of it is missing, it gets them (again). Clients that join late calibrate
    with what the others' vectors gave; with ``late_vectors`` they send theirs along, and everybody
    gets the new combination.
    """

    same_settings: ClassVar[tuple[str, ...]] = READ_BY

    def __init__(
        self,
        combine: Rule,
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
        require_kind("combine", combine, Rule, "a rule of fedapp.aggregation")
        self.combine, self.late_vectors = combine, late_vectors
        self.dtype = vectors_dtype
        self.memory = memory or TaskMemory()
        self.sources: dict[int, Upload] = {}
        self.vectors: np.ndarray | None = None
        self.coefficients: np.ndarray | None = None
        self.holding: set[int] = set()
        self._reuses = self._calibrated = False

    def download(self, client_id: int, moment: Moment) -> Payload:
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

    def aggregate(self, server_round: int, uploads: Sequence[Upload], lost: Sequence[int]) -> None:
        """Combine what came of either kind."""
        self._warn_of_labels(server_round, uploads)
        calibrated = [u for u in uploads if COEFFICIENTS in u.arrays]
        # A client whose reply is missing may have lost its memory with its process.
        self.holding -= {*lost, *(u.client_id for u in uploads)}
        self.holding |= {u.client_id for u in calibrated}
        if calibrated:
            self.coefficients, self._calibrated = self._combined(calibrated, COEFFICIENTS), True
        seen = [u for u in uploads if VECTORS in u.arrays]
        if seen and (self.vectors is None or self.late_vectors):
            self.sources |= {u.client_id: u for u in seen}
            everyone = [self.sources[client] for client in sorted(self.sources)]
            by_examples = self.combine.weighting == "examples"
            count = sum(u.num_examples for u in everyone) if by_examples else len(everyone)
            self.vectors = self.memory.extend(self._combined(everyone, VECTORS), count)
            self.holding = set()
        self._start_like_similar_tasks(server_round)
        if calibrated:
            self._record(server_round)

    def parts(self, arrays: Arrays) -> dict[str, Arrays]:
        """Vectors and coefficients, which have nothing in common to be compared or measured by.

        Both may come in one round, from clients that joined at different times.

        Raises:
            ValueError: At anything else.
        """
        if not arrays or not set(arrays) <= {VECTORS, COEFFICIENTS}:
            held = ", ".join(sorted(arrays)) or "nothing"
            raise ValueError(f"it holds {held} where {VECTORS} or {COEFFICIENTS} were to come")
        return {name: {name: array} for name, array in arrays.items()}

    def shared(self) -> Arrays:
        """Vectors and coefficients: what a newcomer needs."""
        both = {VECTORS: self.vectors, COEFFICIENTS: self.coefficients}
        return {name: value for name, value in both.items() if value is not None}

    def downloads(self, uploads: Sequence[MessageSpec], moment: Moment) -> list[MessageSpec]:
        """After a round of vectors the vectors, after one of coefficients these."""
        return [
            MessageSpec(upload.shapes, self.dtype if VECTORS in upload.shapes else "float32")
            for upload in uploads
        ]

    def _combined(self, uploads: Sequence[Upload], name: str) -> np.ndarray:
        weights = [float(u.num_examples) for u in uploads]
        return self.combine.combine([{name: u.arrays[name]} for u in uploads], weights)[name]

    def begin(self, run: RunFacts) -> None:
        """Look the task up."""
        super().begin(run)
        rule = f"combined by {self.combine!r}"
        if run.resumed:  # what was found then is part of the state
            self.memory.know(run, rule)
            return
        found = self.memory.recall(run, rule)
        self._reuses = found is not None and self.memory.on_hit == "reuse"
        if run.num_rounds == 1 and not self._reuses:
            run.warn("num_rounds=1 calibrates nothing, it only gathers context vectors: set 2 or more")
        if found is None:
            return
        self.coefficients = found.coefficients
        if self._reuses:
            self.vectors = found.vectors.astype(np.float32)
        run.warn(self.memory.describe_hit(found))

    def state(self) -> State:
        """Vectors with those that they come from, coefficients, who has what, and what was recalled."""
        own = {VECTORS: self.vectors, COEFFICIENTS: self.coefficients}
        parts = {
            "own": State({name: value for name, value in own.items() if value is not None}),
            "sources": State.of_uploads(self.sources.values()),
            "memory": self.memory.state(),
        }
        flags = {"reuses": self._reuses, "calibrated": self._calibrated}
        return State.of(parts, holding=sorted(self.holding), **flags)

    def restore(self, state: State) -> None:
        """The same."""
        own = state.part("own").arrays
        self.vectors, self.coefficients = own.get(VECTORS), own.get(COEFFICIENTS)
        self.sources = {upload.client_id: upload for upload in state.part("sources").uploads()}
        self.holding = set(state.facts["holding"])
        self._reuses, self._calibrated = state.facts["reuses"], state.facts["calibrated"]
        self.memory.restore(state.part("memory"))

    def trains(self, server_round: int) -> bool:
        """Whether anything is calibrated: not where a known task is answered from the store."""
        return not self._reuses

    def end(self) -> None:
        """Keep the task."""
        if self.coefficients is not None and self.vectors is not None:
            self.memory.keep(self.coefficients, self.run.num_rounds if self._calibrated else None)

    def _record(self, server_round: int) -> None:
        """Put a round's coefficients into coefficients.jsonl: what everybody gets next."""
        assert self.coefficients is not None
        values = self.coefficients.astype(np.float64).round(6).tolist()
        self.run.record(COEFFICIENTS, {"server-round": server_round, "values": values})

    def _start_like_similar_tasks(self, server_round: int) -> None:
        if self.coefficients is None or self.vectors is None:
            return
        alike = self.memory.warm_start(self.coefficients)
        if alike is not None and server_round < self.run.num_rounds:
            self.coefficients = alike.coefficients
            self.run.warn(alike.message)

    def _warn_of_labels(self, server_round: int, uploads: Sequence[Upload]) -> None:
        lacking = {upload.client_id: upload.metrics.get(MISSING, 0) for upload in uploads}
        named = [f"client {client} of {count:.0f}" for client, count in sorted(lacking.items()) if count > 0]
        if named:
            self.run.warn(
                f"round {server_round}: labels without an example: {', '.join(named)}; "
                "the vectors of these clients say nothing about those labels"
            )
