"""The toy with low-rank updates: one weight matrix, whose update is a product; numpy only.

For tests and dry runs of methods that combine LoRA's factors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from fedapp.core.checks import require_int, require_number
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Arrays, Decoding, Example, Shapes

_LAYER = "layer.0.prefix"
_A, _B, _BIAS, _MERGED = (f"{_LAYER}.{part}" for part in ("lora_A", "lora_B", "bias", "merged"))


@dataclass(frozen=True)
class ToyLora:
    """A weight ``[size, size]`` of zeros with an update alpha / rank * B A, and a vector ``bias``.

    Attributes:
        size: Rows and columns of the weight, entries of the vector.
        rank: Rank of the update.
        alpha: The update is scaled by alpha / rank.
    """

    size: int = 4
    rank: int = 1
    alpha: float = 2.0

    def __post_init__(self) -> None:
        require_int("size", self.size, at_least=1)
        require_int("rank", self.rank, at_least=1)
        require_number("alpha", self.alpha, "(0, inf)")

    def attach(self, base: Any, train: TrainConfig, *, seed: int) -> ToyLowRankModel:
        """Draw A and the vector from the seed; B is zero."""
        return ToyLowRankModel(self, train, seed)


class ToyLowRankModel:
    """Its loss is the mean squared distance of weight and vector to each example's label.

    Implements ``fedapp.core.model.LowRankModel``; the frozen weight is what has been merged into it.
    """

    def __init__(self, settings: ToyLora, train: TrainConfig, seed: int) -> None:
        """Draw the initial values from the seed."""
        rng = np.random.default_rng(seed)
        size, rank = settings.size, settings.rank
        self.scale = np.float32(settings.alpha / rank)
        self.learning_rate = train.learning_rate
        shape = {_A: (rank, size), _BIAS: (size,)}
        self.initial = {name: rng.normal(size=s).astype(np.float32) for name, s in shape.items()}
        self.initial[_B] = np.zeros((size, rank), np.float32)
        self.merged: np.ndarray | None = None
        self.reset()

    def parameters(self) -> Arrays:
        """Copies; the merged update is among them once there is one."""
        merged = {} if self.merged is None else {_MERGED: self.merged}
        return {name: value.copy() for name, value in (self.values | merged).items()}

    def frozen_shapes(self) -> Shapes:
        """Nothing is held beside what is trained."""
        return {}

    def shapes(self) -> Shapes:
        """Shapes of what is trained."""
        return {name: value.shape for name, value in self.values.items()}

    def load(self, parameters: Arrays) -> None:
        """Overwrite by name.

        Raises:
            ValueError: If a parameter is unknown or of another shape.
        """
        size = len(self.values[_BIAS])
        shapes = {name: value.shape for name, value in self.values.items()} | {_MERGED: (size, size)}
        for name, value in parameters.items():
            if value.shape != shapes.get(name):
                raise ValueError(f"parameter {name!r} of shape {value.shape} does not fit the toy model")
        given = {name: np.array(value, np.float32) for name, value in parameters.items()}
        self.merged = given.pop(_MERGED, self.merged)
        self.values |= given

    def factors(self) -> Arrays:
        """A [rank, size] and the scaled B [size, rank]."""
        return {_A: self.values[_A].copy(), _B: self.values[_B] * self.scale}

    def load_factors(self, factors: Arrays) -> None:
        """Overwrite A and the scaled B."""
        self.load({_A: factors[_A], _B: factors[_B] / self.scale})

    def merge(self, factors: Arrays) -> None:
        """Add B A, of any rank, to the frozen weight [size, size]."""
        update = (factors[_B] @ factors[_A]).astype(np.float32)
        self.merged = update if self.merged is None else self.merged + update

    def redraw(self, rng: np.random.Generator) -> None:
        """Draw A, set B to zero."""
        a = rng.normal(size=self.values[_A].shape).astype(np.float32)
        self.values |= {_A: a, _B: np.zeros_like(self.values[_B])}

    def reset(self) -> None:
        """Back to the initial values, nothing merged."""
        self.values = {name: value.copy() for name, value in self.initial.items()}
        self.merged = None

    def weight(self) -> np.ndarray:
        """The weight ``[size, size]`` as the model uses it."""
        product = self.scale * self.values[_B] @ self.values[_A]
        return product if self.merged is None else self.merged + product

    def train(self, examples: Sequence[Example], rng: np.random.Generator) -> float:
        """One gradient step of the mean squared distance to the mean label, with a little noise."""
        loss, goal = self.loss(examples), _goal(examples)
        error = (goal - self.weight()) * self.scale / len(self.values[_BIAS])
        steps = {
            _A: self.values[_B].T @ error,
            _B: error @ self.values[_A].T,
            _BIAS: goal - self.values[_BIAS],
        }
        for name, step in sorted(steps.items()):
            noise = rng.normal(scale=1e-3, size=step.shape)
            self.values[name] = (self.values[name] + self.learning_rate * step + noise).astype(np.float32)
        return loss

    def loss(self, examples: Sequence[Example]) -> float:
        """Mean squared distance to the mean label."""
        every = np.concatenate([self.weight().reshape(-1), self.values[_BIAS]])
        return float(np.mean((every - _goal(examples)) ** 2))

    def generate(self, prompts: Sequence[str], decoding: Decoding | None = None) -> list[str]:
        """The same number for every prompt: the mean of the vector, rounded."""
        return [str(round(float(np.mean(self.values[_BIAS]))))] * len(prompts)

    def export(self, folder: Path) -> None:
        """Write all arrays."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.parameters(), folder / "adapter.safetensors")

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Answer with the initial values, nothing merged."""
        kept = self.values, self.merged
        self.reset()
        try:
            yield
        finally:
            self.values, self.merged = kept

    def detach(self) -> None:
        """There is no base model to leave."""


def _goal(examples: Sequence[Example]) -> float:
    return float(np.mean([example.label or 0 for example in examples])) if examples else 0.0
