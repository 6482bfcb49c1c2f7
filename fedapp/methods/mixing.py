"""How a client joins its own parameters with what it received: fixed, searched, weighed by loss.

All rules that look at data look at the client's own validation rows (``session.val_set``), forward
passes only, never at its test rows. FedReFT balances local and received parameters adaptively
(https://arxiv.org/abs/2508.20295); its rule is not public, so every adaptive one here is ours.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

from fedapp.aggregation import interpolate
from fedapp.core.checks import is_number, require_choice, require_int, require_number, show_value
from fedapp.core.session import ClientSession
from fedapp.core.types import Arrays, ClientFailure

CRITERIA = ("loss", "score")
"""Mean cross entropy of the validation rows, or the benchmark's main metric on them."""

_GOLDEN = (math.sqrt(5) - 1) / 2


@runtime_checkable
class Mixing(Protocol):
    """How a client joins its own parameters with what it received."""

    @property
    def needs_validation(self) -> bool:
        """Whether every client must have validation rows."""

    def mix(self, own: Arrays, received: Arrays, session: ClientSession) -> tuple[Arrays, float]:
        """Return the mix and the share of the own part in it."""


@dataclass(frozen=True)
class FixedMixing:
    """Mix by a fixed weight; 0 takes what was received as it is.

    Attributes:
        local_weight: Share of the client's own parameters, a fraction in [0, 1].
    """

    local_weight: float = 0.5
    needs_validation: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require_number("local_weight", self.local_weight, "[0, 1]")

    def mix(self, own: Arrays, received: Arrays, session: ClientSession) -> tuple[Arrays, float]:
        """Interpolate array by array."""
        return interpolate(own, received, self.local_weight), self.local_weight


@dataclass(frozen=True)
class AdaptiveMixing:
    """Try several weights and keep the best; ties go to the larger share of the own part.

    Attributes:
        candidates: Local weights to try, each a fraction in [0, 1].
        criterion: ``loss`` (mean cross entropy) or ``score`` (the benchmark's main metric).
    """

    candidates: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
    criterion: str = "loss"
    needs_validation: ClassVar[bool] = True

    def __post_init__(self) -> None:
        given = self.candidates
        listed = isinstance(given, Sequence) and bool(given)
        if not listed or not all(is_number(weight) and 0 <= weight <= 1 for weight in given):
            raise ValueError(
                f"candidates={show_value(given)} must be a list of one or more fractions within [0, 1]"
            )
        require_choice("criterion", self.criterion, CRITERIA)

    def mix(self, own: Arrays, received: Arrays, session: ClientSession) -> tuple[Arrays, float]:
        """Return the candidate with the least cost on the validation split."""
        tried = _Trials(own, received, session, self.criterion)
        for weight in sorted(set(self.candidates), reverse=True):
            tried.cost(weight)
        return tried.best()


@dataclass(frozen=True)
class GoldenSectionMixing:
    """Narrow [0, 1] down around the least cost by golden sections, and keep the best weight tried.

    Both ends are tried as well, since a golden section never touches them; ties go to the larger
    share of the own part. Finds the least cost within 0.62^(evaluations - 3) where the cost has a
    single valley; elsewhere a weight that is no worse than either end.

    Attributes:
        evaluations: Weights to try, both ends included.
        criterion: ``loss`` or ``score``. A score has steps, on which the section goes astray.
    """

    evaluations: int = 7
    criterion: str = "loss"
    needs_validation: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_int("evaluations", self.evaluations, at_least=4)
        require_choice("criterion", self.criterion, CRITERIA)

    def mix(self, own: Arrays, received: Arrays, session: ClientSession) -> tuple[Arrays, float]:
        """Return the best of the weights tried."""
        tried = _Trials(own, received, session, self.criterion)
        for end in (1.0, 0.0):
            tried.cost(end)
        low, high = 0.0, 1.0
        left, right = 1 - _GOLDEN, _GOLDEN
        for _ in range(self.evaluations - 3):
            if tried.cost(left) < tried.cost(right):
                high, right = right, left
                left = high - _GOLDEN * (high - low)
            else:
                low, left = left, right
                right = low + _GOLDEN * (high - low)
        return tried.best()


@dataclass(frozen=True)
class SoftmaxMixing:
    """Weigh own and received by how well each does alone.

    local_weight = 1 / (1 + exp((L_own - L_received) / temperature)), that is the softmax of
    -loss / temperature over the two. Where one loss is not finite the other side is taken whole.

    Attributes:
        temperature: Nats of loss that shift the odds by a factor of e; small: the better one wins.
    """

    temperature: float = 1.0
    needs_validation: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_number("temperature", self.temperature, "(0, inf)")

    def mix(self, own: Arrays, received: Arrays, session: ClientSession) -> tuple[Arrays, float]:
        """Interpolate by the two losses on the validation split."""
        tried = _Trials(own, received, session, "loss")
        alone, others = tried.cost(1.0), tried.cost(0.0)
        if not (math.isfinite(alone) and math.isfinite(others)):
            return tried.best()
        # tanh instead of exp: no overflow, however far the losses lie apart.
        weight = 0.5 + 0.5 * math.tanh((others - alone) / (2 * self.temperature))
        return interpolate(own, received, weight), weight


class _Trials:
    """Costs of weights on a client's validation rows, each weight tried once.

    Raises:
        ClientFailure: If the client has no validation rows.
    """

    def __init__(self, own: Arrays, received: Arrays, session: ClientSession, criterion: str) -> None:
        if not session.val_set:
            raise ClientFailure("adaptive mixing needs validation examples; raise split.val_share")
        self._own, self._received, self._session = own, received, session
        self._criterion = criterion
        self._costs: dict[float, float] = {}

    def cost(self, weight: float) -> float:
        """Cost of a mix; infinite where it is not finite."""
        if weight not in self._costs:
            session = self._session
            session.model.load(interpolate(self._own, self._received, weight))
            if self._criterion == "loss":
                cost = session.model.loss(session.val_set)
            else:
                cost = -session.measure(session.val_set)
            self._costs[weight] = cost if math.isfinite(cost) else math.inf
        return self._costs[weight]

    def best(self) -> tuple[Arrays, float]:
        """The mix of least cost with its weight; of equal ones that with the larger own part.

        Raises:
            ClientFailure: If no weight tried has a finite cost.
        """
        cost, weight = min((cost, -weight) for weight, cost in self._costs.items())
        if cost == math.inf:
            raise ClientFailure("no candidate of the adaptive mixing has a finite validation loss")
        return interpolate(self._own, self._received, -weight), -weight
