"""What a client of IFed-ICL does: vectors once, then calibrated coefficients.

Source: IFed-ICL, equations 1 to 6; what it leaves open is a setting here, and says whose choice its
default is. Nobody keeps track of phases: a client does what its download allows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedapp.core.checks import require_bool, require_choice
from fedapp.core.method import ClientRoutine, MessageSpec, Moment, Needs
from fedapp.core.model import COEFFICIENTS, VECTORS, ContextModel
from fedapp.core.payload import DTYPES, Payload
from fedapp.core.session import ClientSession
from fedapp.core.types import Arrays, ClientFailure, Metrics, Shapes
from fedapp.methods.ifed_icl.names import MISSING, WANTED, WIRE_DTYPES

_MOMENTS = "moments/"


@dataclass(frozen=True)
class ContextSharing(ClientRoutine):
    """Read the own examples into vectors; once everybody's mean has come, calibrate coefficients.

    Attributes:
        vectors_dtype: Type of the vectors on the wire. Default: the paper's 514 KB are fp16.
        keep_optimiser: Go on with the optimiser's moments of the client's last round (ours); the
            default is a fresh one, as everything else that is trained here.
    """

    vectors_dtype: str = "float16"
    keep_optimiser: bool = False

    def __post_init__(self) -> None:
        require_choice("vectors_dtype", self.vectors_dtype, WIRE_DTYPES)
        require_bool("keep_optimiser", self.keep_optimiser)

    @property
    def needs(self) -> Needs:
        """An adapter that reads demonstrations."""
        return Needs(model=ContextModel, hint="an adapter that reads demonstrations (adapter=context)")

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
        if VECTORS in download.texts.get(WANTED, []):
            arrays |= self._vectors(session)
            metrics |= self._labels(session)
        return Payload(arrays), metrics

    def evaluate(self, download: Payload, session: ClientSession) -> None:
        """Inject what came; the bare base model answers while nobody has sent vectors."""
        self._take(download, session)

    def upload(self, parameters: Shapes, moment: Moment) -> MessageSpec:
        """The vectors in round 1, which have ``vectors_dtype``; then the coefficients, in fp32."""
        if moment.server_round == 1:
            return MessageSpec({VECTORS: tuple(parameters[VECTORS])}, self.vectors_dtype)
        return MessageSpec({COEFFICIENTS: tuple(parameters[COEFFICIENTS])})

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
        known = len(_context_model(session).labels)
        present = {example.label for example in session.train_set}
        return {"num-demonstrations": len(session.train_set), MISSING: max(known - len(present), 0)}


def _context_model(session: ClientSession) -> ContextModel:
    assert isinstance(session.model, ContextModel)  # as needed
    return session.model
