"""The two halves of a method: what each may be asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from fedapp.core.payload import Payload
from fedapp.core.session import ClientSession
from fedapp.core.types import Metrics, Shapes


class ClientRoutine(Protocol):
    """The client half of a method; it holds settings only, its memory is ``session.state``."""

    def train(self, download: Payload, session: ClientSession) -> tuple[Payload, Metrics]:
        """Take in what came, train, and return what to send back."""

    def evaluate(self, download: Payload, session: ClientSession) -> None:
        """Bring ``session.model`` to the state in which this client would use it."""

    def upload_spec(self, parameters: Mapping[str, tuple[int, ...]]) -> Shapes:
        """What a client with these parameters sends in a round (``fedapp.planning.traffic``)."""
