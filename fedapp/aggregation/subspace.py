"""One subspace for all clients, from the low-rank estimates of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedapp.aggregation.low_rank import product_svd


def joint_subspace(
    lefts: Sequence[np.ndarray], rights: Sequence[np.ndarray], weights: Sequence[float], rank: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Leading singular triplets of the weighted mean of matrices that are given in factors.

    The mean sum_k w_k L_k R_k / sum_k w_k is the product of the stacked factors; QR of either stack
    leaves a small core whose SVD is the mean's, so the mean itself is never formed.

    Args:
        lefts: L_k [m, r_k], one per client.
        rights: R_k [r_k, n].
        weights: w_k, not negative, not all 0.
        rank: Triplets to keep; at most the sum of r_k and the sizes of the mean.

    Returns:
        Orthonormal columns [m, rank], singular values [rank], orthonormal rows [rank, n]; fp32,
        computed in fp64.

    Raises:
        ValueError: If factors do not fit each other or the rank is out of reach.
    """
    counted = np.asarray(weights, np.float64)
    shapes = [(left.shape[0], right.shape[1]) for left, right in zip(lefts, rights, strict=True)]
    inner = [left.shape[1] == right.shape[0] for left, right in zip(lefts, rights, strict=True)]
    if len(set(shapes)) != 1 or not all(inner):
        raise ValueError("the clients' factors must be [m, r] and [r, n] with one m and n for all")
    if len(counted) != len(lefts) or not (counted >= 0).all() or not counted.sum() > 0:
        raise ValueError(f"weights={list(weights)} must be one per client, not negative and not all 0")
    shares = counted / counted.sum()
    stacked = np.concatenate(
        [share * left.astype(np.float64) for share, left in zip(shares, lefts, strict=True)], axis=1
    )
    below = np.concatenate([right.astype(np.float64) for right in rights], axis=0)
    outer_left, left, values, right, outer_right = product_svd(stacked, below)
    if not 1 <= rank <= len(values):
        raise ValueError(f"rank={rank} must be within 1 and {len(values)}, what the factors can span")
    return (
        (outer_left @ left[:, :rank]).astype(np.float32),
        values[:rank].astype(np.float32),
        (right[:rank] @ outer_right.T).astype(np.float32),
    )
