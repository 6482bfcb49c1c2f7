"""Answers counted by target: what scores over the rows of several clients together are computed from.

Counts are ``[..., labels, labels + 1]``: rows are the targets and columns the answers, both in the order of
the benchmark's labels; the last column counts answers that are no label. Leading axes are samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from fedapp.core.types import MAX_LABELS, LabelCounts

RIGHT_OR_WRONG = frozenset({"accuracy", "exact-match"})
"""Metrics that are the share of rows answered right: score and number of rows say how many."""
ROW_MEANS = RIGHT_OR_WRONG | {"rouge-l"}
"""Metrics that are a mean over rows: over several clients' rows, the mean weighted by numbers of rows."""


def count_answers(
    answers: Sequence[str], targets: Sequence[str], labels: Sequence[str] | None
) -> LabelCounts | None:
    """Count answers by target.

    Args:
        answers: As the benchmark reads them in what a model writes.
        targets: As many.
        labels: The benchmark's labels in their order; None where it has none.

    Returns:
        The counts; None where there are no labels or too many, or a target is none of them.
    """
    if not labels or len(labels) > MAX_LABELS or not set(targets) <= set(labels):
        return None
    place = {label: number for number, label in enumerate(labels)}
    counts = np.zeros((len(labels), len(labels) + 1), np.int64)
    for answer, target in zip(answers, targets, strict=True):
        counts[place[target], place.get(answer, len(labels))] += 1
    return tuple(tuple(row) for row in counts.tolist())


def accuracy_of(counts: np.ndarray) -> np.ndarray:
    """Share of rows answered right, ``[...]``, a fraction; counts hold at least one row."""
    right = np.trace(counts, axis1=-2, axis2=-1)
    return np.asarray(right / counts.sum(axis=(-2, -1)))


def macro_f1_of(counts: np.ndarray) -> np.ndarray:
    """Unweighted mean of the F1 scores of the labels that are a target, ``[...]``, a fraction."""
    right = np.diagonal(counts, axis1=-2, axis2=-1)
    wanted = counts.sum(axis=-1)
    given = counts.sum(axis=-2)[..., :-1]
    f1 = 2 * right / np.maximum(wanted + given, 1)
    present = wanted > 0
    return np.asarray((f1 * present).sum(axis=-1) / np.maximum(present.sum(axis=-1), 1))


def matthews_of(counts: np.ndarray) -> np.ndarray:
    """Matthews' correlation coefficient, ``[...]``, in [-1, 1]; 0 where one side has a single class.

    Source: its form for several classes, https://doi.org/10.1016/j.compbiolchem.2004.09.006
    """
    counts = counts.astype(np.float64)
    total, right = counts.sum(axis=(-2, -1)), np.trace(counts, axis1=-2, axis2=-1)
    wanted, given = counts.sum(axis=-1), counts.sum(axis=-2)
    shared = right * total - (wanted * given[..., :-1]).sum(axis=-1)
    spread = (total**2 - (wanted**2).sum(axis=-1)) * (total**2 - (given**2).sum(axis=-1))
    return np.asarray(np.where(spread > 0, shared / np.sqrt(np.where(spread > 0, spread, 1)), 0.0))


FROM_COUNTS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = MappingProxyType(
    {"accuracy": accuracy_of, "macro-f1": macro_f1_of, "matthews-correlation": matthews_of}
)
"""Metrics that counts determine, by name."""
