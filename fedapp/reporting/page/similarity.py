"""How alike the final adapters of a run's clients are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open


def cosine_similarity(files: Mapping[int, Path]) -> tuple[list[int], np.ndarray] | None:
    """Cosine of the angle between each two adapters, all their arrays taken as one long vector.

    Arrays are read one after the other, so that only one of each client is in memory.

    Args:
        files: ``adapter.safetensors`` by client.

    Returns:
        The clients and their similarities, [clients, clients]; None where there are fewer than two, where
        their arrays differ in names or shapes, or where a file is damaged.
    """
    clients = sorted(files)
    if len(clients) < 2:
        return None
    try:
        products = _products([files[client] for client in clients])
    except (OSError, SafetensorError):
        return None
    if products is None:
        return None
    norms = np.sqrt(np.diag(products))
    if not (np.isfinite(norms).all() and norms.all()):
        return None
    return clients, np.clip(products / np.outer(norms, norms), -1, 1)


def _products(files: list[Path]) -> np.ndarray | None:
    """Inner products of all adapters with one another, [files, files]."""
    opened = [safe_open(file, framework="numpy") for file in files]
    names = [sorted(one.keys()) for one in opened]
    if any(other != names[0] for other in names) or not names[0]:
        return None
    products = np.zeros((len(files), len(files)))
    for name in names[0]:
        arrays = [one.get_tensor(name) for one in opened]
        if len({array.shape for array in arrays}) > 1:
            return None
        rows = np.stack([array.ravel() for array in arrays]).astype(np.float64)
        products += rows @ rows.T
    return products
