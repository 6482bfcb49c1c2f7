"""From votes to one answer: similarities, the largest cluster, its representative.

What FedCoFiT (https://arxiv.org/abs/2605.11857) makes public is the shape: answers are embedded, compared
and clustered, and a consensus per prompt comes out. Every rule below is ours, ties included.
"""

from __future__ import annotations

import numpy as np

DECIMALS = 6
"""Similarities are compared to this many decimals: what lies beyond is the rounding of an encoder."""


def similarities(vectors: np.ndarray) -> np.ndarray:
    """Cosine of every pair.

    Args:
        vectors: One row per voter, of length one (or zero), [voters, dim].

    Returns:
        [voters, voters], symmetric, within [-1, 1], ones on the diagonal, rounded to ``DECIMALS``.
    """
    wide = vectors.astype(np.float64)
    product = np.round(np.clip(wide @ wide.T, -1.0, 1.0), DECIMALS)
    product = np.maximum(product, product.T)  # symmetric whatever order a BLAS sums in
    np.fill_diagonal(product, 1.0)
    return product


def largest_cluster(labels: np.ndarray, similarity: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The cluster with the most votes.

    Ties go to the cluster whose members are more alike (mean over its pairs; a single member is 1 like
    itself), then to the one with the voter that comes first.

    Args:
        labels: Cluster of each voter, [voters].
        similarity: As from ``similarities``, [voters, voters].
        weights: Votes of each voter, positive, [voters].

    Returns:
        Its members' indices, ascending.

    Raises:
        ValueError: If there are no voters, or the shapes do not match.
    """
    count = len(labels)
    if not count or similarity.shape != (count, count) or weights.shape != (count,):
        raise ValueError(
            f"{count} labels, similarities {list(similarity.shape)} and weights {list(weights.shape)} "
            "must be of the same voters, one at least"
        )
    clusters = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return max(clusters, key=lambda c: (_rounded(weights[c].sum()), likeness(similarity, c), -int(c[0])))


def likeness(similarity: np.ndarray, members: np.ndarray) -> float:
    """Mean similarity of the pairs of different members; 1 for a single one.

    similarity: Of all voters, ``[num_voters, num_voters]``; members: indices ``[num_members]``.
    """
    size = len(members)
    if size == 1:
        return 1.0
    inside = similarity[np.ix_(members, members)]
    return _rounded((inside.sum() - size) / (size * (size - 1)))


def medoid(similarity: np.ndarray, members: np.ndarray, weights: np.ndarray) -> int:
    """The member that is most similar to all members, each counted by its weight.

    Args:
        similarity: Of all voters, ``[num_voters, num_voters]``.
        members: Indices ``[num_members]``.
        weights: Of all voters, ``[num_voters]``.

    Returns:
        Its index among the voters; the first of equals.
    """
    total = similarity[np.ix_(members, members)] @ weights[members]
    return int(members[int(np.argmax(np.round(total, DECIMALS)))])


def nearest_to_centroid(vectors: np.ndarray, members: np.ndarray, weights: np.ndarray) -> int:
    """The member with the largest cosine to the cluster's weighted mean; the first of equals.

    Where all vectors have length one and the weights are the votes, this is the medoid: both rank by
    the same product. It is another rule with other weights, such as one for each distinct answer.

    Args:
        vectors: [voters, dim].
        members: Indices of the cluster.
        weights: Pull of each voter, [voters].
    """
    inside = vectors[members].astype(np.float64)
    centre = weights[members] @ inside
    lengths = np.linalg.norm(inside, axis=1) * (np.linalg.norm(centre) or 1.0)
    cosine = (inside @ centre) / np.where(lengths > 0, lengths, 1.0)
    return int(members[int(np.argmax(np.round(cosine, DECIMALS)))])


def most_likely(log_likelihoods: np.ndarray, members: np.ndarray) -> int | None:
    """The member whose own model gives it the largest mean log-likelihood per token.

    Args:
        log_likelihoods: Nats per token, at most 0; NaN where it is not known, [voters].
        members: Indices of the cluster.

    Returns:
        The first of equals; None where no member's is known.
    """
    known = members[~np.isnan(log_likelihoods[members])]
    return int(known[int(np.argmax(np.round(log_likelihoods[known], DECIMALS)))]) if len(known) else None


def _rounded(value: float) -> float:
    return round(float(value), DECIMALS)
