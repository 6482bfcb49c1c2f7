"""Exact rules for low-rank updates: stacking, mean with residual, best approximation of a rank.

An update of a layer is a product B A with A ``[rank, in]`` under ``<layer>.lora_A`` and B
``[out, rank]`` under ``<layer>.lora_B``. B holds the adapter's scale (alpha / rank) already, so a
product is what is added to the layer's weight ``[out, in]``. All sums and decompositions run in
fp64, results are fp32. No rule here forms an ``[out, in]`` matrix but ``product``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from fedapp.core.types import Arrays

T = TypeVar("T")

A, B, MERGED = ".lora_A", ".lora_B", ".merged"


def layers(names: Sequence[str] | Mapping[str, object]) -> list[str]:
    """Sorted names of the layers that have both factors among ``names``."""
    return sorted(name.removesuffix(A) for name in names if name.endswith(A) and _partner(name) in names)


def is_factor(name: str) -> bool:
    """Whether an array of this name is one of the two factors of an update."""
    return name.endswith((A, B))


def factors_of(arrays: Mapping[str, T]) -> dict[str, T]:
    """Only the factors among some named arrays (or shapes)."""
    return {name: array for name, array in arrays.items() if is_factor(name)}


def rest_of(arrays: Mapping[str, T]) -> dict[str, T]:
    """What is trained beside the updates (a classification head)."""
    return {name: array for name, array in arrays.items() if not is_factor(name)}


def shares(num_examples: Sequence[float]) -> np.ndarray:
    """Weights ``[num_uploads]`` in fp64 that sum to 1, in proportion to the examples.

    Raises:
        ValueError: If there is none, or one is not a positive number.
    """
    counted = np.asarray(num_examples, np.float64)
    if not counted.size or not (np.isfinite(counted).all() and (counted > 0).all()):
        raise ValueError(f"num_examples={list(num_examples)} must be one or more positive numbers")
    return counted / counted.sum()


def stack(uploads: Sequence[Arrays], num_examples: Sequence[float]) -> Arrays:
    """Factors of the weighted sum of all updates: sum_k w_k B_k A_k, exactly.

    Args:
        uploads: Factors of each client, of any ranks r_k; other arrays are left out.
        num_examples: Weight of each client before it is divided by the sum of all.

    Returns:
        A ``[sum of r_k, in]``, all A_k one below the other, and B ``[out, sum of r_k]``, all w_k B_k
        side by side.

    Raises:
        ValueError: If the uploads have not the same layers, or their sizes differ.

    Source: FLoRA, https://arxiv.org/abs/2409.05976 (the weight on B instead of A: ours, it changes
    no product).
    """
    stacked: Arrays = {}
    for layer, a, b in _stacked(uploads, num_examples):
        stacked |= {layer + A: a.astype(np.float32), layer + B: b.astype(np.float32)}
    return stacked


def mean_and_residual(uploads: Sequence[Arrays], num_examples: Sequence[float]) -> tuple[Arrays, Arrays]:
    """The mean of each factor, and factors of what the product of the means lacks.

    With K clients of rank r the residual sum_k w_k B_k A_k - B' A' (B', A': means) is
    sum_{k<K} w_k (B_k - B') (A_k - A_K): the differences from B' sum to zero, so one client's A may
    be taken off everywhere. Its factors have rank (K - 1) r, for a single client 0.

    Args:
        uploads: Factors of each client, of one rank; other arrays are left out.
        num_examples: As in ``stack``.

    Returns:
        Means A ``[r, in]``, B ``[out, r]``; residual A ``[(K - 1) r, in]``, B ``[out, (K - 1) r]``.

    Raises:
        ValueError: If the uploads have not the same layers and shapes.

    Source: FedEx-LoRA, https://arxiv.org/abs/2410.09432 (the residual; this way of writing it: ours).
    """
    weights = shares(num_examples)
    means: Arrays = {}
    residual: Arrays = {}
    for layer in _common_layers(uploads):
        a = _equal(uploads, layer + A)
        b = _equal(uploads, layer + B)
        mean_a, mean_b = np.tensordot(weights, a, 1), np.tensordot(weights, b, 1)
        means |= {layer + A: mean_a.astype(np.float32), layer + B: mean_b.astype(np.float32)}
        left = [w * (one - mean_b) for w, one in zip(weights[:-1], b[:-1], strict=True)]
        right = [one - a[-1] for one in a[:-1]]
        residual |= {
            layer + A: np.concatenate([*right, a[0][:0]], axis=0).astype(np.float32),
            layer + B: np.concatenate([*left, b[0][:, :0]], axis=1).astype(np.float32),
        }
    return means, residual


def decompose(uploads: Sequence[Arrays], num_examples: Sequence[float]) -> Arrays:
    """Factors of sum_k w_k B_k A_k whose first r columns and rows are its best rank-r approximation.

    Singular value decomposition without forming the sum: QR of the stacked factors, SVD of the
    small product of the two triangles. A has orthonormal rows, B holds the singular values, in
    descending order; the entry of each row of A that is largest in size is positive, so that the
    signs do not depend on the solver.

    Args:
        uploads: As in ``stack``.
        num_examples: As in ``stack``.

    Returns:
        A ``[R, in]`` and B ``[out, R]``, R = min(sum of r_k, in, out); cut with ``truncate``.

    Raises:
        ValueError: As ``stack``.

    Source: FlexLoRA, https://arxiv.org/abs/2402.11505 (the decomposition sent at each client's
    rank; QR first, the signs and all singular values on B's side: ours).
    """
    found: Arrays = {}
    for layer, a, b in _stacked(uploads, num_examples):
        left, u, s, vt, right = product_svd(b, a)
        new_b, new_a = left @ (u * s), vt @ right.T
        largest = np.abs(new_a).argmax(axis=1)
        signs = np.where(new_a[np.arange(len(new_a)), largest] < 0, -1.0, 1.0)
        found[layer + A] = (signs[:, np.newaxis] * new_a).astype(np.float32)
        found[layer + B] = (new_b * signs).astype(np.float32)
    return found


def product_svd(
    left: np.ndarray, right: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Singular value decomposition of a product that is never formed: QR of both factors, SVD of the core.

    Args:
        left: ``[m, r]`` in fp64.
        right: ``[r, n]`` in fp64.

    Returns:
        Q ``[m, p]``, U ``[p, k]``, descending values ``[k]``, V^T ``[k, q]`` and P ``[n, q]``, with which
        the product is (Q U) diag(values) (V^T P^T).
    """
    outer_left, core_left = np.linalg.qr(left)
    outer_right, core_right = np.linalg.qr(right.T)
    u, values, vt = np.linalg.svd(core_left @ core_right.T, full_matrices=False)
    return outer_left, u, values, vt, outer_right


def truncate(factors: Arrays, ranks: Mapping[str, int]) -> Arrays:
    """The first rows of each A and columns of each B, as many as ``ranks`` says for the layer."""
    cut: Arrays = {}
    for layer in layers(factors):
        rank = ranks[layer]
        cut |= {layer + A: factors[layer + A][:rank], layer + B: factors[layer + B][:, :rank]}
    return cut


def fit(factors: Arrays, own: Arrays) -> Arrays:
    """Received factors at the receiver's own ranks.

    More ranks than the receiver has are cut off (from factors sorted as ``decompose`` sorts them).
    Where it has more, its own rows of A fill up and B is zero there: the product stays what it is,
    and training can use the spare rank.

    Args:
        factors: A ``[k, in]`` and B ``[out, k]`` for each layer.
        own: The receiver's factors, A ``[r, in]`` and B ``[out, r]``.

    Raises:
        ValueError: If a layer is unknown or its sizes differ.
    """
    fitted: Arrays = {}
    for layer in _common_layers([factors, own]):
        a, b = factors[layer + A], factors[layer + B]
        own_a, own_b = own[layer + A], own[layer + B]
        _require_sizes(layer, (own_a, own_b), (a, b))
        rank = min(len(a), len(own_a))
        new_b = np.zeros_like(own_b, np.float32)
        new_b[:, :rank] = b[:, :rank]
        fitted |= {layer + A: np.concatenate([a[:rank], own_a[rank:]]), layer + B: new_b}
    return fitted


def product(updates: Sequence[Arrays]) -> Arrays:
    """Sum of some updates as dense matrices ``[out, in]`` under ``<layer>.merged``."""
    total: dict[str, np.ndarray] = {}
    for update in updates:
        for layer in layers(update):
            dense = update[layer + B].astype(np.float64) @ update[layer + A].astype(np.float64)
            total[layer + MERGED] = total[layer + MERGED] + dense if layer + MERGED in total else dense
    return {name: value.astype(np.float32) for name, value in total.items()}


def _partner(name: str) -> str:
    return name.removesuffix(A) + B


def _common_layers(uploads: Sequence[Arrays]) -> list[str]:
    if not uploads:
        raise ValueError("uploads=[] must hold at least one upload to combine")
    found = layers(uploads[0])
    whole = {layer + part for layer in found for part in (A, B)}
    for index, upload in enumerate(uploads):
        if odd := whole ^ set(factors_of(upload)):
            raise ValueError(f"upload {index}: not all uploads have both factors of {min(odd)!r}")
    return found


def _equal(uploads: Sequence[Arrays], name: str) -> list[np.ndarray]:
    arrays = [upload[name].astype(np.float64) for upload in uploads]
    for index, array in enumerate(arrays):
        if array.shape != arrays[0].shape:
            shape, first = list(array.shape), list(arrays[0].shape)
            raise ValueError(
                f"upload {index}: array {name!r} has shape {shape}, upload 0 has {first}: ranks must agree"
            )
    return arrays


def _stacked(
    uploads: Sequence[Arrays], num_examples: Sequence[float]
) -> list[tuple[str, np.ndarray, np.ndarray]]:
    weights = shares(num_examples)
    if len(weights) != len(uploads):
        raise ValueError(f"num_examples={list(num_examples)} must be one number per upload: {len(uploads)}")
    found = []
    for layer in _common_layers(uploads):
        pairs = [(upload[layer + A], upload[layer + B]) for upload in uploads]
        for pair in pairs:
            _require_sizes(layer, pairs[0], pair)
        below = [a.astype(np.float64) for a, _ in pairs]
        beside = [w * b.astype(np.float64) for w, (_, b) in zip(weights, pairs, strict=True)]
        a, b = np.concatenate(below, axis=0), np.concatenate(beside, axis=1)
        found.append((layer, a, b))
    return found


def _require_sizes(
    layer: str, expected: tuple[np.ndarray, np.ndarray], given: tuple[np.ndarray, np.ndarray]
) -> None:
    """Raise ValueError unless A ``[k, in]`` and B ``[out, k]`` fit each other and the layer."""
    a, b = given
    fits = a.ndim == b.ndim == 2 and a.shape[0] == b.shape[1]
    if not fits or (a.shape[1], b.shape[0]) != (expected[0].shape[1], expected[1].shape[0]):
        raise ValueError(
            f"the factors of {layer!r} have shapes {list(a.shape)} and {list(b.shape)}, "
            f"but must be [rank, {expected[0].shape[1]}] and [{expected[1].shape[0]}, rank]"
        )
