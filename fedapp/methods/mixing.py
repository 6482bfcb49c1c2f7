"""How a client joins its own parameters with what it received: fixed, searched, weighed by loss.

All rules that look at data look at the client's own validation rows (``session.val_set``), forward
passes only, never at its test rows. FedReFT balances local and received parameters adaptively
(https://arxiv.org/abs/2508.20295); its rule is not public, so every adaptive one here is ours.

What looking costs is bounded by ``budget``, a share of the local training that follows. Both are
counted in forward rows, one row through the model once: a row that is looked at is one, a row that is
trained on is three (forward, and a backward pass of about two forwards). An answer that is generated
for ``criterion: score`` counts as one row, though it takes longer. Where the budget does not reach for
all validation rows, all weights see the same rows in an order drawn from ``session.rng``, so that they
differ by the weight alone. None has no bound. Whatever the budget, a weight sees one row at least.
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

BUDGET = 0.25
"""Share of the local training that the choice of a weight may cost."""
ROWS_OF_A_STEP = 3
"""Forward rows that a row in training costs: forward, and a backward pass of about two forwards."""

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

    Losses are searched by successive halving: all weights see a few rows, the better half of them
    (rounded up) sees more, until two are left; each stage gets an equal part of the budget. A score is
    no mean over rows, so all weights are scored once, on as many rows as the budget allows.

    Attributes:
        candidates: Local weights to try, each a fraction in [0, 1].
        criterion: ``loss`` (mean cross entropy) or ``score`` (the benchmark's main metric).
        budget: What the search may cost, as a share of the local training; None: all rows.

    Source: Jamieson and Talwalkar 2016, https://arxiv.org/abs/1502.07943 (successive halving).
    """

    candidates: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0)
    criterion: str = "loss"
    budget: float | None = BUDGET
    needs_validation: ClassVar[bool] = True

    def __post_init__(self) -> None:
        given = self.candidates
        listed = isinstance(given, Sequence) and bool(given)
        if not listed or not all(is_number(weight) and 0 <= weight <= 1 for weight in given):
            raise ValueError(
                f"candidates={show_value(given)} must be a list of one or more fractions within [0, 1]"
            )
        require_choice("criterion", self.criterion, CRITERIA)
        _require_budget(self.budget)

    def mix(self, own: Arrays, received: Arrays, session: ClientSession) -> tuple[Arrays, float]:
        """Return the candidate with the least cost on the validation split."""
        weights = sorted(set(self.candidates), reverse=True)
        tried = _Trials(own, received, session, self.criterion, self.budget, len(weights))
        if tried.limited and self.criterion == "loss":
            tried.halve(weights)
        else:
            for weight in weights:
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
        budget: What the search may cost, as a share of the local training; None: all rows.
    """

    evaluations: int = 7
    criterion: str = "loss"
    budget: float | None = BUDGET
    needs_validation: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_int("evaluations", self.evaluations, at_least=4)
        require_choice("criterion", self.criterion, CRITERIA)
        _require_budget(self.budget)

    def mix(self, own: Arrays, received: Arrays, session: ClientSession) -> tuple[Arrays, float]:
        """Return the best of the weights tried."""
        tried = _Trials(own, received, session, self.criterion, self.budget, self.evaluations)
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
        budget: What the two losses may cost, as a share of the local training; None: all rows.
    """

    temperature: float = 1.0
    budget: float | None = BUDGET
    needs_validation: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require_number("temperature", self.temperature, "(0, inf)")
        _require_budget(self.budget)

    def mix(self, own: Arrays, received: Arrays, session: ClientSession) -> tuple[Arrays, float]:
        """Interpolate by the two losses on the validation split."""
        tried = _Trials(own, received, session, "loss", self.budget, 2)
        alone, others = tried.cost(1.0), tried.cost(0.0)
        if not (math.isfinite(alone) and math.isfinite(others)):
            return tried.best()
        # tanh instead of exp: no overflow, however far the losses lie apart.
        weight = 0.5 + 0.5 * math.tanh((others - alone) / (2 * self.temperature))
        return interpolate(own, received, weight), weight


def _require_budget(budget: float | None) -> None:
    if budget is not None:
        require_number("budget", budget, "(0, inf)")


class _Trials:
    """Costs of weights on a client's validation rows; no weight sees a row twice.

    Attributes:
        limited: Whether the budget is too small to show every row to every weight.

    Raises:
        ClientFailure: If the client has no validation rows.
    """

    def __init__(
        self,
        own: Arrays,
        received: Arrays,
        session: ClientSession,
        criterion: str,
        budget: float | None,
        num_weights: int,
    ) -> None:
        if not session.val_set:
            raise ClientFailure("adaptive mixing needs validation examples; raise split.val_share")
        self._own, self._received, self._session = own, received, session
        self._criterion, self._rows = criterion, session.val_set
        count = len(session.val_set)
        whole = math.inf if budget is None else budget * ROWS_OF_A_STEP * session.trained_rows
        self._budget = min(whole, num_weights * count)  # in forward rows
        self._share = max(int(self._budget / num_weights), 1)
        self.limited = self._share < count
        if self.limited:
            self._rows = [session.val_set[index] for index in session.rng.permutation(count)]
        self._seen: dict[float, int] = {}
        self._costs: dict[float, float] = {}  # means over the rows seen

    def cost(self, weight: float, num_rows: int = 0) -> float:
        """Mean cost of a mix on the first rows, by default an equal share; infinite where not finite."""
        num_rows, seen = num_rows or self._share, self._seen.get(weight, 0)
        if num_rows > seen:
            new = self._rows[seen:num_rows] if self.limited else self._rows
            session = self._session
            session.model.load(interpolate(self._own, self._received, weight))
            cost = session.model.loss(new) if self._criterion == "loss" else -session.measure(new)
            cost = (self._costs.get(weight, 0.0) * seen + cost * len(new)) / num_rows if seen else cost
            self._costs[weight] = cost if math.isfinite(cost) else math.inf
            self._seen[weight] = num_rows
        return self._costs[weight]

    def halve(self, weights: Sequence[float]) -> None:
        """Show all weights a few rows, the better half more, and so on down to two."""
        stages = [len(weights)]
        while stages[-1] > 2:
            stages.append(math.ceil(stages[-1] / 2))
        left, seen, budget = list(weights), 0, self._budget
        for index, size in enumerate(stages):
            left = sorted(left, key=lambda weight: (self._costs.get(weight, 0.0), -weight))[:size]
            more = int(budget / (size * (len(stages) - index)))
            more = min(more, len(self._rows) - seen) if seen else max(more, 1)
            seen, budget = seen + more, budget - size * more
            for weight in left:
                self.cost(weight, seen)

    def best(self) -> tuple[Arrays, float]:
        """The mix of least cost among those that saw most rows; of equal ones that with the larger own part.

        Raises:
            ClientFailure: If no weight tried has a finite cost.
        """
        finite = [weight for weight, cost in self._costs.items() if cost < math.inf]
        if not finite:
            raise ClientFailure("no candidate of the adaptive mixing has a finite validation loss")
        weight = min(finite, key=lambda weight: (-self._seen[weight], self._costs[weight], -weight))
        return interpolate(self._own, self._received, weight), weight
