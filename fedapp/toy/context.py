"""Context vectors without a model: for tests and dry runs of methods that share them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fedapp.core.checks import require_int
from fedapp.core.model import COEFFICIENTS, VECTORS
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Arrays, ClientFailure, Decoding, Example, Shapes
from fedapp.toy.adapter import Toy, ToyModel


@dataclass(frozen=True)
class ToyContext:
    """Vectors are the mean label of the examples; coefficients move towards it.

    Attributes:
        num_layers, size: Shape of the vectors, [num_layers, 2, size].
    """

    num_layers: int = 1
    size: int = 4

    def __post_init__(self) -> None:
        require_int("num_layers", self.num_layers, at_least=1)
        require_int("size", self.size, at_least=1)

    def attach(self, base: Any, train: TrainConfig, *, seed: int) -> ToyContextModel:
        """Make the model; only its training draws anything."""
        return ToyContextModel(self, train, tuple(base.labels) if base else ())


class ToyContextModel(ToyModel):
    """A toy with coefficients [num_layers, 2, 2] that needs vectors before it trains."""

    def __init__(self, settings: ToyContext, train: TrainConfig, labels: tuple[str, ...]) -> None:
        """Start from I2CL's values."""
        super().__init__(Toy(roles=()), train, 0)
        self.shape = (settings.num_layers, 2, settings.size)
        self.labels = labels
        self.initial = {COEFFICIENTS: np.full((settings.num_layers, 2, 2), [0.1, 1.0], np.float32)}
        self.reset()

    def reset(self) -> None:
        """Initial coefficients, no vectors, no moments."""
        super().reset()
        self._moments: Arrays = {}

    def frozen_shapes(self) -> Shapes:
        """Shape of the vectors, loaded or not."""
        return {VECTORS: self.shape}

    def load(self, parameters: Arrays) -> None:
        """Overwrite by name; vectors must have the settings' shape, [num_layers, 2, size].

        Raises:
            ValueError: If a name is unknown or a shape differs.
        """
        if VECTORS in parameters:
            self.values.setdefault(VECTORS, np.zeros(self.shape, np.float32))
        super().load(parameters)

    def encode(self, examples: Sequence[Example]) -> np.ndarray:
        """The mean label everywhere, [num_layers, 2, size]."""
        labels = [example.label or 0 for example in examples]
        return np.full(self.shape, np.mean(labels), np.float32)

    def train(self, examples: Sequence[Example], rng: np.random.Generator) -> float:
        """Train the coefficients, counting the rounds as the only moment.

        Raises:
            ClientFailure: If there are no context vectors.
        """
        vectors = self.values.pop(VECTORS, None)
        if vectors is None:
            raise ClientFailure("there are no context vectors to calibrate")
        loss = super().train(examples, rng)
        self.values[VECTORS] = vectors
        self._moments = {"0.step": self._moments.get("0.step", np.zeros(1, np.float32)) + 1}
        return loss

    def moments(self) -> Arrays:
        """Rounds trained."""
        return dict(self._moments)

    def resume(self, moments: Arrays) -> None:
        """Go on counting."""
        self._moments = dict(moments)

    def loss(self, examples: Sequence[Example]) -> float:
        """Mean squared distance of the coefficients to the mean label."""
        goal = np.mean([example.label or 0 for example in examples]) if examples else 0.0
        return float(np.mean((self.values[COEFFICIENTS] - goal) ** 2))

    def generate(self, prompts: Sequence[str], decoding: Decoding | None = None) -> list[str]:
        """The first coefficient, rounded, for every prompt."""
        return [str(round(float(self.values[COEFFICIENTS][0, 0, 0])))] * len(prompts)
