"""Clients that send something else than what they trained: for experiments on robustness only.

A run's ``hostile`` node names the clients and one of the classes here. Such a client trains like
every other; only its upload is changed on its way out, so its own memory stays honest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fedapp.core.checks import require_choice, require_number, show_value
from fedapp.core.method import ClientRoutine, MessageSpec, Moment, Needs
from fedapp.core.payload import Payload
from fedapp.core.session import ClientSession
from fedapp.core.types import Arrays, ClientFailure, Metrics, Shapes

# What a generator is for, after (seed, client, round): 0 trains, 1 evaluates, this one corrupts.
_PURPOSE = 2
_MEMORY = "hostile/"


@dataclass(frozen=True)
class Sent:
    """An honest upload with what it may be compared with.

    Attributes:
        trained: What an honest client would send.
        start: The same arrays as they came from the server; where nothing came, as the run began.
        initial: The same arrays as the run began.
    """

    trained: Arrays
    start: Arrays
    initial: Arrays


@runtime_checkable
class Corruption(Protocol):
    """The ``hostile`` node: what a hostile client does to the arrays it sends."""

    def corrupt(self, sent: Sent, memory: Arrays, rng: np.random.Generator) -> Arrays:
        """Return what is sent instead; ``memory`` is kept from round to round."""


@dataclass(frozen=True)
class Noise:
    """Add Gaussian noise to every array.

    Attributes:
        scale: Standard deviation, as a multiple of the array's own root mean square; 0 adds nothing.
    """

    scale: float = 100.0

    def __post_init__(self) -> None:
        require_number("scale", self.scale, "[0, inf)")

    def corrupt(self, sent: Sent, memory: Arrays, rng: np.random.Generator) -> Arrays:
        """Draw the noise array by array, in the order of the names."""
        noisy = {}
        for name, values in sorted(sent.trained.items()):
            size = self.scale * np.sqrt(np.mean(np.square(values, dtype=np.float64))) if values.size else 0.0
            noisy[name] = values + size * rng.standard_normal(values.shape)
        return {name: noisy[name] for name in sent.trained}


@dataclass(frozen=True)
class SignFlip:
    """Send what was learned with the opposite sign.

    Attributes:
        of: ``update``: what training changed is turned round, start - factor * (trained - start);
            ``parameters``: the values themselves are, -factor * trained.
        factor: How large it is then; 1 keeps the size.
    """

    of: str = "update"
    factor: float = 1.0

    def __post_init__(self) -> None:
        require_choice("of", self.of, ("update", "parameters"))
        require_number("factor", self.factor, "(0, inf)")

    def corrupt(self, sent: Sent, memory: Arrays, rng: np.random.Generator) -> Arrays:
        """Turn every array round."""
        if self.of == "parameters":
            return {name: -self.factor * values for name, values in sent.trained.items()}
        return {
            name: sent.start[name] - self.factor * (values - sent.start[name])
            for name, values in sent.trained.items()
        }


@dataclass(frozen=True)
class Stale:
    """Send the same for ever.

    Attributes:
        upload: ``first``: what was trained in the client's first round; ``initial``: what every
            client starts from, as a free rider would that never trains.
    """

    upload: str = "first"

    def __post_init__(self) -> None:
        require_choice("upload", self.upload, ("first", "initial"))

    def corrupt(self, sent: Sent, memory: Arrays, rng: np.random.Generator) -> Arrays:
        """Send the remembered upload; the first one is as trained."""
        if self.upload == "initial":
            return sent.initial
        for name, values in sent.trained.items():
            memory.setdefault(name, values)
        return {name: memory[name] for name in sent.trained}


@dataclass(frozen=True)
class HostileRoutine(ClientRoutine):
    """A client routine whose upload is corrupted.

    Attributes:
        routine: What the client would do honestly.
        corruption: What becomes of the arrays it sends.
        seed: The run's seed.
    """

    routine: ClientRoutine
    corruption: Corruption
    seed: int

    def train(self, download: Payload, session: ClientSession) -> tuple[Payload, Metrics]:
        """Train honestly, send something else.

        Raises:
            ClientFailure: If the method sends texts alone or arrays that are no parameters of the
                model where the corruption would have to know how they started.
        """
        memory = _take_memory(session.state)
        initial = session.model.parameters()  # a session opens with the run's initial parameters
        # What the model holds and does not train, as context vectors, starts from nothing.
        frozen = session.model.frozen_shapes()
        initial = {name: np.zeros(shape, np.float32) for name, shape in frozen.items()} | initial
        payload, metrics = self.routine.train(download, session)
        if payload.texts and not payload.arrays:
            raise ClientFailure("hostile.clients can only be set for methods that send arrays, not texts")
        if payload.arrays:
            sent = _sent(payload.arrays, download.arrays, initial)
            rng = np.random.default_rng([self.seed, session.client_id, session.server_round, _PURPOSE])
            with np.errstate(over="ignore"):  # what leaves the range is for the server to notice
                corrupted = self.corruption.corrupt(sent, memory, rng)
                types = {name: values.dtype for name, values in payload.arrays.items()}
                arrays = {name: corrupted[name].astype(types[name]) for name in payload.arrays}
            payload = replace(payload, arrays=arrays)
        session.state.update({_MEMORY + name: values for name, values in memory.items()})
        return payload, metrics

    @property
    def needs(self) -> Needs:
        """What an honest client needs."""
        return self.routine.needs

    def open(self, session: ClientSession) -> Payload:
        """What an honest client sends: the estimates before round 1 are not corrupted."""
        return self.routine.open(session)

    def upload(self, parameters: Shapes, moment: Moment) -> MessageSpec:
        """What an honest client sends: a corruption changes values, not shapes."""
        return self.routine.upload(parameters, moment)

    def evaluate(self, download: Payload, session: ClientSession) -> None:
        """What an honest client does."""
        _take_memory(session.state)
        self.routine.evaluate(download, session)


@dataclass(frozen=True)
class Hostility:
    """The run's ``hostile`` node.

    Attributes:
        clients: Ids of the hostile clients; empty in every run that is no experiment on robustness.
        corruption: What they do to their uploads; None where there are none.
    """

    clients: frozenset[int] = frozenset()
    corruption: Corruption | None = None

    @classmethod
    def of(cls, node: Mapping[str, Any], corruption: Any, num_clients: int) -> Hostility:
        """Check the node against the number of clients.

        Args:
            node: The composed node; ``clients`` is read.
            corruption: The object that its ``_target_`` names, None where it names none.
            num_clients: Clients of the federation.

        Raises:
            ValueError: If the clients do not exist, or are named without a corruption.
        """
        clients = node.get("clients")
        if not _are_ids(clients, num_clients):
            raise ValueError(
                f"hostile.clients={show_value(clients)} must be a list of client ids "
                f"from 0 to {num_clients - 1}"
            )
        if clients and len(set(clients)) == num_clients:
            raise ValueError(f"hostile.clients={show_value(clients)} must leave an honest client to measure")
        if clients and corruption is None:
            raise ValueError(
                f"hostile.clients={clients} needs hostile._target_, what they do (fedapp list hostile)"
            )
        if corruption is not None and not isinstance(corruption, Corruption):
            target = show_value(node.get("_target_"))
            raise ValueError(
                f"hostile._target_={target} must name a class with the method corrupt (fedapp.client.hostile)"
            )
        return cls(frozenset(clients or ()), corruption)

    def routine(self, honest: ClientRoutine, client_id: int, seed: int) -> ClientRoutine:
        """The routine of a client: the honest one for all but the hostile clients."""
        if client_id not in self.clients or self.corruption is None:
            return honest
        return HostileRoutine(honest, self.corruption, seed)


def _are_ids(clients: Any, num_clients: int) -> bool:
    listed = isinstance(clients, Sequence) and not isinstance(clients, str)
    return listed and all(type(client) is int and 0 <= client < num_clients for client in clients)


def _take_memory(state: Arrays) -> Arrays:
    """Take out of a client's memory what is not the routine's."""
    names = [name for name in state if name.startswith(_MEMORY)]
    return {name.removeprefix(_MEMORY): state.pop(name) for name in names}


def _sent(trained: Arrays, received: Arrays, initial: Arrays) -> Sent:
    """An upload, in fp32, with its start and the run's, array by array."""
    for name, values in trained.items():
        if name not in initial or initial[name].shape != values.shape:
            raise ClientFailure(
                f"hostile.clients cannot be set for this method: its {name!r} is no parameter of the model"
            )
    start = {
        name: received[name] if name in received and received[name].shape == own.shape else initial[name]
        for name, own in trained.items()
    }
    parts = (trained, start, {name: initial[name] for name in trained})
    return Sent(*({name: values.astype(np.float32) for name, values in part.items()} for part in parts))
