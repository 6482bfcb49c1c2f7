"""Making the partitioners of Flower Datasets from a config node, the number of clients and the seed."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from fedapp.config.build import RESERVED

if TYPE_CHECKING:
    from flwr_datasets.partitioner import Partitioner as Partitioner

LIBRARY = "flwr_datasets.partitioner"
PRIVATE = "Private"
"""In the place of a partitioner's name: each node's benchmark is its client's and is not divided."""


@dataclass(frozen=True)
class Partitioning:
    """A partitioner of Flower Datasets with its settings, without clients and data.

    A partitioner object takes its data set once and caches what it made of it; this is what makes
    a fresh one for each number of clients and seed.

    Attributes:
        partitioner: Name of a class of ``flwr_datasets.partitioner``, or ``Private``.
        settings: Its arguments, without ``num_partitions`` and ``seed``, which the run gives.
    """

    partitioner: str
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [n for n in _library().__all__ if n.endswith("Partitioner") and n != "Partitioner"]
        if self.partitioner not in (*names, PRIVATE):
            raise ValueError(
                f"partitioner={self.partitioner!r} does not exist; known: {', '.join(sorted(names))}"
            )
        known = [name for name in self._arguments() if name not in ("num_partitions", "seed")]
        for name in self.settings:
            if name not in known:
                raise ValueError(
                    f"partitioner.{name} is not a setting of {self.partitioner}; "
                    f"known: {', '.join(known) or 'none'}"
                )

    @classmethod
    def of(cls, node: Mapping[str, Any]) -> Partitioning:
        """Read a config node: ``_target_`` names the class, the other keys are its settings.

        Raises:
            ValueError: If the target is no partitioner of Flower Datasets or a setting is not its own.
        """
        module, _, name = str(node.get("_target_")).rpartition(".")
        if (module, name) == (__name__, PRIVATE):
            module = LIBRARY
        if module != LIBRARY:
            target = node.get("_target_")
            raise ValueError(
                f"partitioner._target_={target!r} must be a class of {LIBRARY} or {__name__}.{PRIVATE}"
            )
        return cls(name, {key: value for key, value in node.items() if key not in ("_target_", *RESERVED)})

    def __hash__(self) -> int:
        return hash((self.partitioner, repr(sorted(self.settings.items()))))

    @property
    def divides(self) -> bool:
        """Whether clients share the benchmark's rows out; if not, each holds what its node has."""
        return self.partitioner != PRIVATE

    @property
    def key(self) -> str:
        """Column that the rows are divided by; ``task`` where the partitioner looks at none."""
        return str(self.settings.get("partition_by", "task"))

    def make(self, num_clients: int, seed: int) -> Partitioner:
        """A new partitioner that holds no data yet.

        Raises:
            ValueError: If the settings do not suit the class.
        """
        given = {"num_partitions": num_clients, "seed": seed}
        arguments = {name: value for name, value in given.items() if name in self._arguments()}
        try:
            return getattr(_library(), self.partitioner)(**self.settings, **arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(f"partitioner={self.partitioner}: {' '.join(str(error).split())}") from None

    def _arguments(self) -> list[str]:
        if not self.divides:
            return []
        return list(inspect.signature(getattr(_library(), self.partitioner)).parameters)


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


def _library() -> ModuleType:
    """Flower Datasets' partitioners; importing them draws in plotting libraries, a second's work."""
    return importlib.import_module(LIBRARY)
