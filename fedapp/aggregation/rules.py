"""The rules: means, geometric medians, all-but-me, mixing of own and others' parameters."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedapp.aggregation.checks import UploadError, by_client, check_alike, require_any
from fedapp.aggregation.combination import LinearCombination, inner_products, means_of_the_others
from fedapp.aggregation.rule import Rule
from fedapp.core.types import Arrays


@dataclass(frozen=True, kw_only=True)
class LinearRule(ABC):
    """A rule whose results are linear combinations of the uploads; holds settings only.

    Attributes:
        weighting: ``uniform`` (every client counts the same) or ``examples`` (a client counts by
            the weight that comes with it, its number of examples).
    """

    weighting: str = "uniform"

    def __post_init__(self) -> None:
        if self.weighting not in ("uniform", "examples"):
            raise ValueError(f"weighting={self.weighting!r} must be one of: uniform, examples")

    def combine(self, arrays: Sequence[Arrays], weights: Sequence[float] | None = None) -> Arrays:
        """Combine all uploads; arguments and errors as in ``Rule.combine``."""
        counted = self._weights(arrays, weights)
        check_alike(arrays)
        return self._combination(arrays, counted[np.newaxis] / counted.sum()).make()[0]

    def leave_one_out(
        self, arrays: Sequence[Arrays], weights: Sequence[float] | None = None
    ) -> Iterator[Arrays]:
        """For every upload combine all the others; arguments and errors as in ``combine``.

        The upload left out has the coefficient 0 instead of being subtracted from a total, so its
        size leaves no rounding behind. An only upload gets an empty dictionary.
        """
        if len(arrays) < 2:
            check_alike(arrays)
            return iter([{} for _ in arrays])
        return self.combination(arrays, weights).each()

    def combination(
        self, arrays: Sequence[Arrays], weights: Sequence[float] | None = None
    ) -> LinearCombination:
        """Do the part of ``leave_one_out`` that all clients share; row k leaves out upload k.

        Needs two uploads or more; arguments and errors as in ``combine``.

        Raises:
            ValueError: If the weights of all uploads but one are 0.
        """
        counted = self._weights_without_one(arrays, weights)
        rows = np.tile(counted, (counted.size, 1))
        np.fill_diagonal(rows, 0.0)
        check_alike(arrays)
        return self._combination(arrays, rows / rows.sum(axis=1, keepdims=True))

    def _weights_without_one(self, arrays: Sequence[Arrays], weights: Sequence[float] | None) -> np.ndarray:
        """As ``_weights``, of which any one may be left out."""
        counted = self._weights(arrays, weights)
        if (counted > 0).sum() < 2:
            alone = int(np.argmax(counted))
            raise ValueError(f"weights={list(counted)} must not be 0 for all but upload {alone}")
        return counted

    def _weights(self, arrays: Sequence[Arrays], weights: Sequence[float] | None) -> np.ndarray:
        """Check the weights and return them as fp64 ``[count]``."""
        require_any(arrays)
        count = len(arrays)
        if self.weighting == "uniform":
            return np.ones(count)
        if weights is None or len(weights) != count:
            given = "none" if weights is None else len(weights)
            raise ValueError(f"weighting='examples' needs one weight per upload: {count}, got {given}")
        counted = np.asarray(weights, np.float64)
        if not (np.isfinite(counted.sum()) and (counted >= 0).all() and counted.sum() > 0):
            raise ValueError(f"weights={list(weights)} must be finite, not negative and not all 0")
        return counted

    @abstractmethod
    def _combination(self, arrays: Sequence[Arrays], rows: np.ndarray) -> LinearCombination:
        """Find the coefficients for weights ``[num_outputs, num_uploads]`` whose rows sum to 1."""


@dataclass(frozen=True, kw_only=True)
class Mean(LinearRule):
    """The (weighted) arithmetic mean."""

    def leave_one_out(
        self, arrays: Sequence[Arrays], weights: Sequence[float] | None = None
    ) -> Iterator[Arrays]:
        """As in the base class, by running sums in the place of coefficients for every pair."""
        if len(arrays) < 2:
            return super().leave_one_out(arrays, weights)
        counted = self._weights_without_one(arrays, weights)
        check_alike(arrays)
        return means_of_the_others(arrays, counted)

    def _combination(self, arrays: Sequence[Arrays], rows: np.ndarray) -> LinearCombination:
        return LinearCombination(arrays, [(tuple(arrays[0]), rows)])


@dataclass(frozen=True, kw_only=True)
class GeometricMedian(LinearRule):
    """The point with the smallest (weighted) sum of Euclidean distances to the uploads.

    Smoothed Weiszfeld steps from the (weighted) mean: z <- sum_j p_j x_j / sum_j p_j with
    p_j = w_j / max(|z - x_j|, smoothing). All steps happen on coefficients: z stays in the span of
    the uploads, and one matrix of their inner products, in fp64, gives every distance for every
    leave-one-out median. Rounding in it is about 1e-15 of the squared norms; where uploads lie
    closer together than 1e-4 of their norm it is taken again around a central upload, so distances
    within that upload's neighbourhood stay exact and only a second, remote and equally tight bunch
    would lose digits. (Only in that case an upload can touch, in the last digits of fp64, the
    rounding of the median that leaves it out.) One absurdly large upload costs the others no
    accuracy, but steps: among n uploads its pull shrinks (n - 1)-fold per step, so with 4 uploads
    50 steps shed a size of 1e23 and no more.

    Attributes:
        max_iterations: Most Weiszfeld steps.
        tolerance: Stop when a step is shorter than this share of the harmonic mean distance.
        smoothing: Shortest distance a weight is computed with, in the arrays' own unit; also the
            reach within which an upload is no longer told from the median.
        per_array: One median per array instead of one for all arrays as a single long vector.

    Source: RFA, https://arxiv.org/abs/1912.13445 (smoothed Weiszfeld); the limits are ours.
    """

    max_iterations: int = 50
    tolerance: float = 1e-6
    smoothing: float = 1e-6
    per_array: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations={self.max_iterations!r} must be at least 1")
        if not self.tolerance >= 0:
            raise ValueError(f"tolerance={self.tolerance!r} must not be negative")
        if not self.smoothing > 0:
            raise ValueError(f"smoothing={self.smoothing!r} must be greater than 0")

    def _combination(self, arrays: Sequence[Arrays], rows: np.ndarray) -> LinearCombination:
        names = tuple(arrays[0])
        groups = [(name,) for name in names] if self.per_array and names else [names]
        found = [(group, self._weiszfeld(inner_products(arrays, group), rows)) for group in groups]
        return LinearCombination(arrays, found, finite=True)

    def _weiszfeld(self, gram: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Median coefficients, one row per row of weights, from inner products ``[K, K]``.

        Rows that are done are masked, not removed: the products keep their shape, so no row's last
        bit depends on how fast the others converge.
        """
        found = rows
        moving = np.ones((len(rows), 1), bool)
        for _ in range(self.max_iterations):
            cross = found @ gram
            own = (cross * found).sum(axis=1, keepdims=True)
            distances = np.sqrt(np.maximum(own - 2 * cross + gram.diagonal(), 0.0))
            pull = rows / np.maximum(distances, self.smoothing)
            step = np.where(moving, pull / pull.sum(axis=1, keepdims=True) - found, 0.0)
            found = found + step
            length = np.sqrt(np.maximum(((step @ gram) * step).sum(axis=1, keepdims=True), 0.0))
            # 1 / sum of pulls is the harmonic mean distance. The plain mean would grow with one
            # absurd upload until every step looked short, and the search would stop beside it.
            moving &= length * pull.sum(axis=1, keepdims=True) > self.tolerance
            if not moving.any():
                break
        return found


def weighted_mean(arrays: Sequence[Arrays], weights: Sequence[float]) -> Arrays:
    """Weighted mean of each named array, in fp32; arguments and errors as in ``Rule.combine``."""
    return Mean(weighting="examples").combine(arrays, weights)


def geometric_median(
    arrays: Sequence[Arrays],
    weights: Sequence[float] | None = None,
    *,
    max_iterations: int = 50,
    tolerance: float = 1e-6,
    smoothing: float = 1e-6,
    per_array: bool = False,
) -> Arrays:
    """Geometric median of the uploads, in fp32; weights default to equal. See ``GeometricMedian``."""
    rule = GeometricMedian(
        weighting="uniform" if weights is None else "examples",
        max_iterations=max_iterations,
        tolerance=tolerance,
        smoothing=smoothing,
        per_array=per_array,
    )
    return rule.combine(arrays, weights)


def all_but_me(
    arrays: Mapping[int, Arrays], combine: Rule, num_examples: Mapping[int, float] | None = None
) -> dict[int, Arrays]:
    """For every client the combination of all the other clients' arrays.

    Args:
        arrays: Named arrays of any shape for each client_id; names and shapes agree.
        combine: The rule, ``Mean`` or ``GeometricMedian``.
        num_examples: The weight of each client, for a rule that asks for it.

    Returns:
        Named fp32 arrays for each client_id, in ascending order; of a single other client they are
        that client's arrays, and without any other client the dictionary of arrays is empty.

    Raises:
        ValueError: If clients disagree or one's values are not finite; the message names them.

    Source: FedReFT, https://arxiv.org/abs/2508.20295 (who is combined; the rule is the caller's).
    """
    client_ids = sorted(arrays)
    missing = [] if num_examples is None else [c for c in client_ids if c not in num_examples]
    if missing:
        raise ValueError(f"num_examples has no entry for clients {missing}, needs one per client")
    weights = None if num_examples is None else [num_examples[c] for c in client_ids]
    try:
        others = list(combine.leave_one_out([arrays[client_id] for client_id in client_ids], weights))
    except UploadError as error:
        raise ValueError(by_client(error, client_ids)) from None
    return dict(zip(client_ids, others, strict=True))


def interpolate(own: Arrays, others: Arrays, local_weight: float) -> Arrays:
    """Mix own and others' parameters, array by array.

    Args:
        own: Named arrays of any shape.
        others: Arrays with the same names and shapes.
        local_weight: Share of own in the mix, a fraction in [0, 1].

    Raises:
        ValueError: If local_weight is out of range, names or shapes differ, or a value is not finite.

    Source: FedReFT, https://arxiv.org/abs/2508.20295 (which side the weight is on: ours).
    """
    if not 0 <= local_weight <= 1:
        raise ValueError(f"local_weight={local_weight!r} must be within [0, 1]")
    try:
        check_alike([own, others])
        rows = np.array([[local_weight, 1 - local_weight]], np.float64)
        return LinearCombination([own, others], [(tuple(own), rows)]).make()[0]
    except UploadError as error:
        who = ("own arrays", "others' arrays")
        raise ValueError(error.describe(who[error.index], who[0])) from None
