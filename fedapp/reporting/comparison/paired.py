"""Differences between configurations, pair by pair: same seed, same client, same test rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fedapp.records.pooling import Interval
from fedapp.records.results import RunResult
from fedapp.reporting.comparison.groups import Group

RESAMPLES = 2000
"""Bootstrap samples, as of pooled scores."""
FLIPS = 9999
"""Sign flips of the test; up to 13 pairs all there are."""
ALIKE = ("benchmark", "partitioner", "num_clients", "split")
"""Settings that decide which rows a client has: only where they are equal are two clients a pair."""


@dataclass(frozen=True)
class Difference:
    """A configuration's scores minus those of the reference, over pairs of seed and client.

    Attributes:
        against: The reference's label.
        pairs: How many.
        mean: Mean difference, a fraction.
        interval: 95 % of a bootstrap over pairs; None of fewer than two.
        p: Two-sided p value of a sign-flip test of mean 0; None of fewer than two pairs.
        corrected: The same after Holm's correction for all differences of the table.
    """

    against: str
    pairs: int
    mean: float
    interval: Interval | None
    p: float | None
    corrected: float | None


def reference(groups: Sequence[Group], wanted: str | None) -> Group:
    """The configuration that the others are compared with.

    Args:
        groups: All of the table.
        wanted: Its label, or words of it that no other has; None for the one with the highest mean.

    Raises:
        ValueError: If there is no such configuration, or more than one.
    """
    if wanted is None:
        return max(groups, key=lambda group: round(np.mean([_mean(run) for run in group.runs]), 9))
    found = [group for group in groups if group.label == wanted]
    found = found or [group for group in groups if set(wanted.split()) <= set(group.label.split())]
    if len(found) != 1:
        labels = "; ".join(group.label for group in found or groups)
        raise ValueError(
            f"--against {wanted!r} must name one configuration; {len(found)} fit; there are: {labels}"
        )
    return found[0]


def differences(groups: Sequence[Group], against: Group) -> dict[str, Difference]:
    """Each configuration minus the reference, by label; without those that share no pair with it."""
    from statsmodels.stats.multitest import multipletests  # half a second of imports

    found: dict[str, Difference] = {}
    for group in groups:
        pairs = [] if group is against else _pairs(group, against)
        if pairs:
            values = np.array(pairs)
            found[group.label] = Difference(
                against.label, len(pairs), float(values.mean()), _interval(values), _sign_flips(values), None
            )
    tested = [label for label, one in found.items() if one.p is not None]
    if tested:
        corrected = multipletests([found[label].p for label in tested], method="holm")[1]
        for label, p in zip(tested, corrected, strict=True):
            one = found[label]
            found[label] = Difference(one.against, one.pairs, one.mean, one.interval, one.p, float(p))
    return found


def _mean(run: RunResult) -> float:
    return float(np.mean(list(run.scores.values())))


def _pairs(group: Group, against: Group) -> list[float]:
    """Differences for every seed and client that both have, on the same rows."""
    others = {run.seed: run for run in against.runs}
    found = []
    for run in group.runs:
        other = others.get(run.seed)
        if other is None or any(run.config.get(key) != other.config.get(key) for key in ALIKE):
            continue
        both = sorted(set(run.scores) & set(other.scores))
        found += [run.scores[client] - other.scores[client] for client in both]
    return found


def _interval(values: np.ndarray) -> Interval | None:
    """95 % of a percentile bootstrap of the mean of values, [pairs]."""
    from scipy import stats

    if len(values) < 2:
        return None
    drawn = stats.bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(0)
    )
    return float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)


def _sign_flips(values: np.ndarray) -> float | None:
    """Two-sided p value of mean 0 of values, [pairs], were either sign of each as likely."""
    from scipy import stats

    if len(values) < 2:
        return None
    rng = np.random.default_rng(0)
    test = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=FLIPS, vectorized=True, rng=rng
    )
    return float(test.pvalue)
