"""The toy with two frozen vectors that all clients have to agree on, for methods that need such."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Arrays, ClientFailure, Example, Shapes
from fedapp.toy.adapter import Toy, ToyModel

_LEFT, _RIGHT = "layer.0.subspace.sb_B", "layer.0.subspace.sb_A"
_CORE = "layer.0.subspace.sb_R"


@dataclass(frozen=True)
class ToySubspace(Toy):
    """The toy's vectors and a trained number [1, 1] between frozen vectors [size, 1] and [1, size]."""

    def attach(self, base: Any, train: TrainConfig, *, seed: int) -> ToyModel:
        """Draw the initial vectors from the seed."""
        return ToySubspaceModel(self, train, seed)


class ToySubspaceModel(ToyModel):
    """Trains only where the frozen vectors have been loaded."""

    def __init__(self, settings: ToySubspace, train: TrainConfig, seed: int) -> None:
        """Draw the initial vectors from the seed."""
        super().__init__(settings, train, seed)
        self.initial[_CORE] = np.zeros((1, 1), np.float32)
        self.reset()

    def reset(self) -> None:
        """Back to the initial vectors, with nothing loaded."""
        super().reset()
        self.frozen: Arrays = {}

    def parameters(self) -> Arrays:
        """Copies."""
        return super().parameters() | {name: value.copy() for name, value in self.frozen.items()}

    def frozen_shapes(self) -> Shapes:
        """Shapes of the vectors that have to be agreed upon."""
        size = self.settings.size
        return {_LEFT: (size, 1), _RIGHT: (1, size)}

    def load(self, parameters: Arrays) -> None:
        """Overwrite by name: the frozen ones are [size, 1] and [1, size].

        Raises:
            ValueError: If a name is unknown or a shape differs.
        """
        frozen = {name: value for name, value in parameters.items() if name in (_LEFT, _RIGHT)}
        super().load({name: value for name, value in parameters.items() if name not in frozen})
        self.frozen |= {name: value.astype(np.float32) for name, value in frozen.items()}

    def estimate(self, examples: Sequence[Example], rng: np.random.Generator) -> Arrays:
        """Factors [size, 1] and [1, size] that depend on the client's labels."""
        left = np.array([[float(example.label or 0)] for example in examples[: self.settings.size]])
        right = rng.normal(size=(1, self.settings.size))
        return {_LEFT: left.astype(np.float32), _RIGHT: right.astype(np.float32)}

    def train(self, examples: Sequence[Example], rng: np.random.Generator) -> float:
        """As the toy; the frozen vectors stay.

        Raises:
            ClientFailure: If the frozen vectors have not come.
        """
        if len(self.frozen) != 2:
            raise ClientFailure("the frozen vectors have not come")
        return super().train(examples, rng)

    def loss(self, examples: Sequence[Example]) -> float:
        """As the toy, over all that is trained."""
        flat = {name: value.ravel() for name, value in self.values.items()}
        kept, self.values = self.values, flat
        try:
            return super().loss(examples)
        finally:
            self.values = kept
