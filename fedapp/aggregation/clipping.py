"""Uploads brought within reach of their centre before another rule combines them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedapp.aggregation.checks import check_alike, require_finite
from fedapp.aggregation.rules import Combine
from fedapp.core.checks import require_number, show_value
from fedapp.core.types import Arrays


@dataclass(frozen=True, kw_only=True)
class CenteredClip:
    """Shorten what lies far from the centre, then combine with another rule.

    With the centre c and the distances d_k = |x_k - c| (all arrays as one vector), upload k becomes
    c + min(1, factor * median(d) / d_k) * (x_k - c). An upload within reach is taken bit for bit, so
    without outliers the result is the other rule's own. Each leave-one-out combination finds centre
    and reach among the others alone: a client has no influence on what it receives.

    Attributes:
        rule: What combines the shortened uploads.
        factor: Reach, as a multiple of the median distance; at least 1, so that the nearer half of
            the uploads is never changed.

    Source: centered clipping, Karimireddy et al. 2021, https://arxiv.org/abs/2012.10333. There the
    centre is the previous aggregate and the reach a constant; the coordinate-wise median and the
    median distance, which need no memory and no unit, are ours.
    """

    rule: Combine
    factor: float = 2.0

    def __post_init__(self) -> None:
        require_number("factor", self.factor, "[1, inf)")
        for method in ("combine", "leave_one_out"):
            if not callable(getattr(self.rule, method, None)):
                raise ValueError(
                    f"rule={show_value(self.rule)} must be a mapping with _target_, a rule like Mean"
                )

    def combine(self, arrays: Sequence[Arrays], weights: Sequence[float] | None = None) -> Arrays:
        """Combine all uploads; arguments and errors as in ``Combine.combine``."""
        _check(arrays)
        return self.rule.combine(self._clipped(arrays), weights)

    def leave_one_out(self, arrays: Sequence[Arrays], weights: Sequence[float] | None = None) -> list[Arrays]:
        """For every upload combine all the others; arguments and errors as in ``combine``."""
        _check(arrays)
        if len(arrays) < 2:
            return [{} for _ in arrays]
        combined = []
        for left_out in range(len(arrays)):
            others = [upload for index, upload in enumerate(arrays) if index != left_out]
            rest = None if weights is None else [w for i, w in enumerate(weights) if i != left_out]
            combined.append(self.rule.combine(self._clipped(others), rest))
        return combined

    def _clipped(self, arrays: Sequence[Arrays]) -> list[Arrays]:
        """The uploads, those beyond reach shortened, as fp32."""
        squares = np.zeros(len(arrays))
        centre: dict[str, np.ndarray] = {}
        for name in arrays[0] if arrays else ():
            stacked = np.stack([upload[name].astype(np.float64) for upload in arrays])
            centre[name] = np.median(stacked, axis=0)
            squares += np.square(stacked - centre[name]).reshape(len(arrays), -1).sum(axis=1)
        distances = np.sqrt(squares)
        reach = self.factor * float(np.median(distances)) if len(arrays) else 0.0
        return [
            upload if distance <= reach else _towards(centre, upload, reach / distance)
            for upload, distance in zip(arrays, distances, strict=True)
        ]


def _check(arrays: Sequence[Arrays]) -> None:
    """Raise UploadError unless all uploads have the same names and shapes and are finite."""
    check_alike(arrays)
    with np.errstate(invalid="ignore"):
        sums = [sum(np.sum(a, dtype=np.float64) for a in upload.values()) for upload in arrays]
    require_finite(np.array(sums, np.float64), arrays)


def _towards(centre: Arrays, upload: Arrays, share: float) -> Arrays:
    """The point that lies at this share of the way from the centre to the upload."""
    return {
        name: (middle + share * (upload[name].astype(np.float64) - middle)).astype(np.float32)
        for name, middle in centre.items()
    }
