"""The coordinate-wise median: every value on its own, whatever the others of its upload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fedapp.aggregation.checks import check_uploads, require_any
from fedapp.core.types import Arrays


@dataclass(frozen=True, kw_only=True)
class CoordinateMedian:
    """For every value the median over the uploads; the mean of the middle two where they are even.

    Up to half of the uploads may be anything without moving a value beyond the others' range. It is no
    linear combination of the uploads, so it depends on the basis in which they are written. All
    clients count the same.

    Source: Yin et al. 2018, https://arxiv.org/abs/1803.01498; as a federated method FedMedian.
    """

    weighting: ClassVar[str] = "uniform"

    def combine(self, arrays: Sequence[Arrays], weights: Sequence[float] | None = None) -> Arrays:
        """Combine all uploads; arguments and errors as in ``Rule.combine``, weights are unused."""
        require_any(arrays)
        check_uploads(arrays)
        return {name: np.median(_stack(arrays, name), axis=0).astype(np.float32) for name in arrays[0]}

    def leave_one_out(self, arrays: Sequence[Arrays], weights: Sequence[float] | None = None) -> list[Arrays]:
        """For every upload the median of all the others, from one sort of all.

        Arguments and errors as in ``combine``; an only upload gets an empty dictionary.
        """
        check_uploads(arrays)
        if len(arrays) < 2:
            return [{} for _ in arrays]
        made: list[Arrays] = [{} for _ in arrays]
        for name in arrays[0]:
            for own, median in zip(made, _medians_of_the_others(_stack(arrays, name)), strict=True):
                own[name] = median
        return made


def _medians_of_the_others(stacked: np.ndarray) -> list[np.ndarray]:
    """For each row of ``[num_uploads, ...]`` the median over the other rows, fp32 ``[...]``."""
    order = np.argsort(stacked, axis=0, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(len(stacked)).reshape(-1, *[1] * (stacked.ndim - 1)), axis=0)
    ordered = np.take_along_axis(stacked, order, axis=0)
    others = len(stacked) - 1
    middle = {(others - 1) // 2, others // 2}
    found = []
    for rank in ranks:
        # Without the row of this rank, what stands above it moves down by one place.
        values = [np.where(place < rank, ordered[place], ordered[place + 1]) for place in sorted(middle)]
        found.append((sum(values) / len(values)).astype(np.float32))
    return found


def _stack(arrays: Sequence[Arrays], name: str) -> np.ndarray:
    """One array of all uploads in fp64, ``[num_uploads, ...]``."""
    return np.stack([upload[name].astype(np.float64) for upload in arrays])
