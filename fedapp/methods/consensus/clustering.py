"""Clusters of answers by their similarities, by scikit-learn and scipy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedapp.core.checks import require_choice, require_int, require_number

SLACK = 1e-9  # far below the six decimals that similarities have, far above the rounding of their sums
KINDS = ("agglomerative", "components", "dbscan", "none")


@dataclass(frozen=True)
class Clustering:
    """Which voters say the same. FedCoFiT clusters; how is not public, so all of this is configuration.

    Attributes:
        kind: ``agglomerative``: average linkage, cut where two clusters' mean cosine falls below
            ``threshold``; ``components``: whoever is linked by a chain of cosines of at least
            ``threshold``; ``dbscan``: dense regions (``min_samples`` voters, the own vote included,
            within ``threshold``), where a voter in none stands alone; ``none``: all in one cluster.
        threshold: Cosine from which two answers count as alike, within [-1, 1].
        min_samples: Voters that make a region dense (``dbscan``).
    """

    kind: str = "agglomerative"
    threshold: float = 0.7
    min_samples: int = 2

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, KINDS)
        require_number("threshold", self.threshold, "[-1, 1]")
        require_int("min_samples", self.min_samples, at_least=1)

    def labels(self, similarity: np.ndarray) -> np.ndarray:
        """Cluster of each voter.

        Args:
            similarity: Cosines, [voters, voters], symmetric.

        Returns:
            A number for each voter, equal within a cluster, [voters].
        """
        if len(similarity) < 2 or self.kind == "none":
            return np.zeros(len(similarity), dtype=np.int64)
        cuts = {
            "agglomerative": self._agglomerative,
            "components": self._components,
            "dbscan": self._dbscan,
        }
        return cuts[self.kind](similarity)

    def _agglomerative(self, similarity: np.ndarray) -> np.ndarray:
        from sklearn.cluster import AgglomerativeClustering  # 1.3 s to import, the server alone needs it

        # scikit-learn parts what is at the threshold; a cosine that equals it counts as alike here.
        cut = 1.0 - self.threshold + SLACK
        made = AgglomerativeClustering(
            n_clusters=None, metric="precomputed", linkage="average", distance_threshold=cut
        )
        return made.fit_predict(_distances(similarity))

    def _components(self, similarity: np.ndarray) -> np.ndarray:
        from scipy.sparse.csgraph import connected_components

        return connected_components(similarity >= self.threshold, directed=False)[1]

    def _dbscan(self, similarity: np.ndarray) -> np.ndarray:
        from sklearn.cluster import DBSCAN

        radius = 1.0 - self.threshold + SLACK  # never 0, which is refused
        made = DBSCAN(eps=radius, min_samples=self.min_samples, metric="precomputed")
        labels = made.fit_predict(_distances(similarity))
        alone = labels < 0
        labels[alone] = labels.max(initial=-1) + 1 + np.arange(alone.sum())
        return labels


def _distances(similarity: np.ndarray) -> np.ndarray:
    distance = np.clip(1.0 - similarity, 0.0, 2.0)
    np.fill_diagonal(distance, 0.0)
    return distance
