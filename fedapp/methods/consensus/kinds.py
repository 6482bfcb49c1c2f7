"""Which public prompts are of a client's own kind, told from its own prompts alone; all of it is ours."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

FEATURES = 4096
"""Words and pairs of words are told apart by a hash of so many values."""
MOST = 500
"""Own prompts looked at: the first ones, so that memory and time stay small."""

NEIGHBOUR = 5
"""Nearness is measured to this neighbour: a question asked in two templates has itself for its first."""


def find_own_kind(own: Sequence[str], public: Sequence[str], missed: float = 0.05) -> np.ndarray:
    """Find the public prompts that are as near to the own prompts as these are to one another.

    Prompts are bags of words and pairs of words, weighted by their inverse document frequency (tf-idf). How
    near the own prompts lie to one another says which cosine is near enough, so there is no threshold to set.

    Args:
        own: The client's training prompts.
        public: The public prompts.
        missed: Share of the own prompts that would not be told as own, in [0, 1).

    Returns:
        True where a public prompt is of the own kind, [len(public)]; nowhere with fewer than two own ones.
    """
    mine = list(dict.fromkeys(own))[:MOST]
    if len(mine) < 2 or not public:
        return np.zeros(len(public), bool)
    vectors = _tf_idf([*mine, *public])
    held, asked = vectors[: len(mine)], vectors[len(mine) :]
    among = held @ held.T
    np.fill_diagonal(among, -1.0)
    return _nearness(asked @ held.T) >= np.quantile(_nearness(among), missed)


def _nearness(cosines: np.ndarray) -> np.ndarray:
    """Cosine to the ``NEIGHBOUR``-th nearest own prompt of each row's text: near twins do not count."""
    place = min(NEIGHBOUR, cosines.shape[1] - 1)
    return np.sort(cosines, axis=1)[:, -place]


def _tf_idf(texts: Sequence[str]) -> np.ndarray:
    """Rows of length one (or zero), ``[texts, FEATURES]``."""
    counts = np.zeros((len(texts), FEATURES), np.float32)
    for row, text in enumerate(texts):
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        for term in (*words, *(" ".join(pair) for pair in pairwise(words))):
            counts[row, zlib.crc32(term.encode("utf-8", "surrogatepass")) % FEATURES] += 1
    rarity = np.log((1 + len(texts)) / (1 + (counts > 0).sum(axis=0))) + 1
    weighted = counts * rarity.astype(np.float32)
    lengths = np.linalg.norm(weighted, axis=1, keepdims=True)
    return weighted / np.where(lengths > 0, lengths, 1)
