"""Making the partitioners of Flower Datasets from a config node, the number of clients and the seed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import flwr_datasets.partitioner as partitioners

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
        names = [n for n in partitioners.__all__ if n.endswith("Partitioner") and n != "Partitioner"]
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
            module = partitioners.__name__
        if module != partitioners.__name__:
            target = node.get("_target_")
            raise ValueError(
                f"partitioner.build._target_={target!r} must be a class of {partitioners.__name__} "
                f"or {__name__}.{PRIVATE}"
            )
        return cls(name, {key: value for key, value in node.items() if key != "_target_"})

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

    def make(self, num_clients: int, seed: int) -> partitioners.Partitioner:
        """A new partitioner that holds no data yet.

        Raises:
            ValueError: If the settings do not suit the class.
        """
        given = {"num_partitions": num_clients, "seed": seed}
        arguments = {name: value for name, value in given.items() if name in self._arguments()}
        try:
            return getattr(partitioners, self.partitioner)(**self.settings, **arguments)
        except (TypeError, ValueError) as error:
            raise ValueError(f"partitioner={self.partitioner}: {' '.join(str(error).split())}") from None

    def _arguments(self) -> list[str]:
        if not self.divides:
            return []
        return list(inspect.signature(getattr(partitioners, self.partitioner)).parameters)
