"""Rotations of low-rank updates: the freedom B A = (B Q^T)(Q A), and its use before averaging.

Names and shapes of factors as in ``fedapp.aggregation.low_rank``. Everything runs in fp64, results are fp32.
"""

from __future__ import annotations

import numpy as np

from fedapp.aggregation.low_rank import A, B, layers
from fedapp.core.types import Arrays


def rotation(factor: np.ndarray, reference: np.ndarray, *, reflections: bool = False) -> np.ndarray:
    """The orthogonal Q that brings Q ``factor`` closest to ``reference`` in the Frobenius norm.

    Q = U V^T with U S V^T = reference factor^T (orthogonal Procrustes). Without reflections the column of U
    with the smallest singular value changes its sign where det Q would be -1 (Kabsch).

    Args:
        factor: ``[rank, n]``.
        reference: ``[rank, n]``.
        reflections: Whether Q may have the determinant -1, too.

    Returns:
        ``[rank, rank]`` in fp64; the identity where the two have nothing in common (a product of zeros).

    Source: Schönemann 1966, https://doi.org/10.1007/BF02289451.
    """
    common = reference.astype(np.float64) @ factor.astype(np.float64).T
    if not common.any():
        return np.eye(len(common))
    left, _, right = np.linalg.svd(common)
    if not reflections and np.linalg.det(left @ right) < 0:
        left[:, -1] *= -1
    found: np.ndarray = left @ right
    return found


def soften(rotated: np.ndarray, weight: float) -> np.ndarray:
    """The orthogonal matrix closest to (1 - weight) I + weight Q, ``[rank, rank]``; Q itself for weight 1."""
    if weight == 1:
        return rotated
    left, _, right = np.linalg.svd((1 - weight) * np.eye(len(rotated)) + weight * rotated)
    found: np.ndarray = left @ right
    return found


def align(
    upload: Arrays, reference: Arrays, factor: str, *, weight: float = 1.0, reflections: bool = False
) -> Arrays:
    """Rotate the updates of an upload towards a reference; every product B A stays what it is.

    Args:
        upload: Factors of one client; what is no pair of factors is passed on as it is.
        reference: Factors of the same shapes; layers that it lacks are passed on, too.
        factor: ``A`` or ``B``: which of the two is to come closest to the reference.
        weight: How far to turn, a fraction in [0, 1]; see ``soften``.
        reflections: See ``rotation``.

    Source: FedRot-LoRA, https://arxiv.org/abs/2602.23638.
    """
    aligned = dict(upload)
    for layer in layers(upload):
        if layer + A not in reference or layer + B not in reference:
            continue
        a, b = upload[layer + A].astype(np.float64), upload[layer + B].astype(np.float64)
        if factor == "A":
            found = rotation(a, reference[layer + A], reflections=reflections)
        else:
            found = rotation(b.T, reference[layer + B].T, reflections=reflections)
        turned = soften(found, weight)
        aligned[layer + A] = (turned @ a).astype(np.float32)
        aligned[layer + B] = (b @ turned.T).astype(np.float32)
    return aligned
