"""Dividing whole things in proportion: largest remainders, and subsamples that keep proportions."""

from __future__ import annotations

import numpy as np


def subsample(rows: np.ndarray, keys: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw rows without repetition, each key in proportion to how often it stands among ``rows``.

    Args:
        rows: Row numbers, ``[num_rows]``.
        keys: The key of every row of the split, indexed by row number.
        size: How many to draw; no fewer rows than that are left as they are.
        rng: Draws the rows and settles ties between remainders.

    Returns:
        Row numbers in ascending order, ``[min(size, num_rows)]``.
    """
    if size >= len(rows):
        return np.sort(rows)
    values, counts = np.unique(keys[rows], return_counts=True)
    quotas = largest_remainder(counts, size, rng)
    chosen = [
        rng.choice(rows[keys[rows] == value], quota, replace=False)
        for value, quota in zip(values, quotas, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def largest_remainder(weights: np.ndarray, total: int, rng: np.random.Generator) -> np.ndarray:
    """Divide ``total`` into whole shares in proportion to weights, the largest remainders rounded up.

    Args:
        weights: Whole numbers of at least 0, at least one above, ``[num_shares]``.
        total: What to divide; at most the sum of the weights gives no share above its weight.
        rng: Settles ties, so that no share is favoured for its place.

    Returns:
        Whole shares that sum to ``total``, ``[num_shares]``.
    """
    shares, remainders = np.divmod(weights.astype(np.int64) * total, int(weights.sum()))
    shuffled = rng.permutation(len(weights))
    order = shuffled[np.argsort(-remainders[shuffled], kind="stable")]
    shares[order[: total - int(shares.sum())]] += 1
    return shares
