"""FedALT: every client keeps its own LoRA and gets the mean of the others' in a second, frozen slot."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from fedapp.core.checks import require_choice
from fedapp.core.method import ClientRoutine, MessageSpec, Moment
from fedapp.core.payload import DTYPES, Payload
from fedapp.core.session import ClientSession
from fedapp.core.types import Arrays, ClientFailure, Metrics, Shapes

_OWN = re.compile(r"\.lora_([AB])$")


@dataclass(frozen=True)
class RestOfWorld(ClientRoutine):
    """Put what came into the others' slot, train one's own LoRA and the mixer, send the own LoRA.

    The own LoRA goes on from where the client left it; what comes from the others never overwrites
    it. The mixer stays with the client, and so does a classification head (the head: ours). As long
    as nothing has come, the others' slot is absent.

    Attributes:
        dtype: Type of the values on the wire; clients compute in fp32.

    Source: FedALT, https://arxiv.org/abs/2503.11880, and its code (jmbian/FedALT).
    """

    dtype: str = "float32"

    def __post_init__(self) -> None:
        require_choice("dtype", self.dtype, ("float32", "float16", "bfloat16"))

    def train(self, download: Payload, session: ClientSession) -> tuple[Payload, Metrics]:
        """Do a round's training."""
        self._start(download, session)
        session.score("mixed" if download.arrays else "own", "before")
        metrics = {"train-loss": session.model.train(session.train_set, session.rng)}
        trained = session.model.parameters()
        session.score("own", "after")
        session.state.clear()
        session.state.update(trained)
        shared = {name: trained[name].astype(DTYPES[self.dtype]) for name in trained if _OWN.search(name)}
        return Payload(arrays=shared), metrics

    def evaluate(self, download: Payload, session: ClientSession) -> None:
        """Bring the model to what this client would use after this round."""
        self._start(download, session)

    def upload(self, parameters: Shapes, moment: Moment) -> MessageSpec:
        """The client's own LoRA.

        Raises:
            ClientFailure: If there is no mixer among the parameters.
        """
        _require_mixer(parameters)
        return MessageSpec({n: shape for n, shape in parameters.items() if _OWN.search(n)}, self.dtype)

    @staticmethod
    def _start(download: Payload, session: ClientSession) -> None:
        model = session.model
        own = {name for name in model.parameters() if _OWN.search(name)}
        if session.state:
            model.load(session.state)
        if set(download.arrays) not in (set(), own):
            odd = sorted(set(download.arrays) ^ own)[0]
            raise ClientFailure(f"the download's arrays are not the others' LoRA: {odd!r}")
        received: Arrays = {
            _OWN.sub(r".others_\1", name): array.astype(np.float32) for name, array in download.arrays.items()
        }
        model.load(received)


def _require_mixer(names: Iterable[str]) -> None:
    found = sorted(names)
    if not any(name.endswith(".mixer") for name in found):
        raise ClientFailure(
            "this method needs an adapter with a LoRA, a slot for the others' and a mixer "
            f"(adapter=lora_mixed); this one has {next(iter(found), 'nothing')} and the like"
        )
