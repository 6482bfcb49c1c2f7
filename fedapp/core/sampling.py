"""Which clients take part in a round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def sample(clients: Sequence[int], count: int, seed: int, server_round: int) -> list[int]:
    """Draw a round's clients from seed and round alone, so that a cost can be told beforehand.

    Args:
        clients: All of them, sorted.
        count: How many to draw; 0 means all.
        seed: The run's seed.
        server_round: From 1.

    Returns:
        Sorted client ids.
    """
    rng = np.random.default_rng([seed, server_round])
    size = min(count or len(clients), len(clients))
    return sorted(rng.choice(clients, size=size, replace=False).tolist())
