"""An adapter without a model: named vectors that training pulls towards its examples.

For tests and dry runs: milliseconds a round, no torch, and a result that can be worked out by hand.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from safetensors.numpy import save_file

from fedapp.core.checks import require_int, require_number
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Arrays, ClientFailure, Decoding, Example, Shapes


@dataclass(frozen=True)
class ToyBase:
    """Stands where a base model would: no weights, only a fingerprint.

    Attributes:
        labels: Not used; every base is told the benchmark's labels.
        fingerprint: What the handshake compares.
    """

    labels: tuple[str, ...] = ()
    fingerprint: str = "toy"

    def set_num_threads(self, count: int) -> None:
        """There is nothing to compute with."""

    def with_labels(self, labels: Sequence[str]) -> ToyBase:
        """The toy, told the benchmark's label words."""
        return replace(self, labels=tuple(labels)) if labels and not self.labels else self

    def num_frozen(self) -> None:
        """Unknown: there is no model."""

    @property
    def model(self) -> NoReturn:
        """None.

        Raises:
            ValueError: Always; an adapter of real models has met the toy.
        """
        raise ValueError("model=toy has no weights: it goes with adapter=toy, toy_context or toy_lora")

    head = tokenizer = model


@dataclass(frozen=True)
class Toy:
    """Trainable vectors ``layer.0.prefix.rotate``, ``….weight``, ``….bias``, or of other roles.

    Attributes:
        size: Entries of each vector.
        roles: Last parts of the vectors' names, so that any method's pattern finds something.
        diverge_from: Training on examples with at least this label reports a loss that is not
            finite; None never does.
    """

    size: int = 4
    roles: Sequence[str] = ("rotate", "weight", "bias")
    diverge_from: float | None = None

    def __post_init__(self) -> None:
        require_int("adapter.build.size", self.size, at_least=1)
        if self.diverge_from is not None:
            require_number("adapter.build.diverge_from", self.diverge_from, "[-inf, inf]")

    def attach(self, base: Any, train: TrainConfig, *, seed: int) -> ToyModel:
        """Draw the initial vectors from the seed."""
        return ToyModel(self, train, seed)


class ToyModel:
    """Its loss is the mean squared distance between its vectors and each example's label."""

    def __init__(self, settings: Toy, train: TrainConfig, seed: int) -> None:
        """Draw the initial vectors from the seed."""
        rng = np.random.default_rng(seed)
        names = [f"layer.0.prefix.{role}" for role in settings.roles]
        self.settings = settings
        self.learning_rate = train.learning_rate
        self.initial = {name: rng.normal(size=settings.size).astype(np.float32) for name in names}
        self.reset()

    def parameters(self) -> Arrays:
        """Copies."""
        return {name: value.copy() for name, value in self.values.items()}

    def shapes(self) -> Shapes:
        """Shapes of ``parameters()``."""
        return {name: value.shape for name, value in self.values.items()}

    def frozen_shapes(self) -> Shapes:
        """Nothing is held beside."""
        return {}

    def load(self, parameters: Arrays) -> None:
        """Overwrite by name; every vector is [size].

        Raises:
            ValueError: If a name is unknown or a shape differs.
        """
        for name, value in parameters.items():
            if name not in self.values or value.shape != self.values[name].shape:
                raise ValueError(f"parameter {name!r} of shape {value.shape} does not fit the toy model")
            self.values[name] = value.astype(np.float32)

    def reset(self) -> None:
        """Back to the initial vectors."""
        self.values = {name: value.copy() for name, value in self.initial.items()}

    def train(self, examples: Sequence[Example], rng: np.random.Generator) -> float:
        """Move a step towards the mean of the labels, with a little noise from rng.

        Raises:
            ClientFailure: If the labels reach ``diverge_from``.
        """
        goal = _goal(examples)
        limit = self.settings.diverge_from
        if limit is not None and goal >= limit:
            raise ClientFailure("the training loss is nan")
        loss = self.loss(examples)
        for name, value in self.values.items():
            noise = rng.normal(scale=1e-3, size=value.shape)
            self.values[name] = (value + self.learning_rate * (goal - value) + noise).astype(np.float32)
        return loss

    def loss(self, examples: Sequence[Example]) -> float:
        """Mean squared distance to the mean label."""
        stacked = np.concatenate(list(self.values.values()))
        return float(np.mean((stacked - _goal(examples)) ** 2))

    def generate(self, prompts: Sequence[str], decoding: Decoding | None = None) -> list[str]:
        """The same number for every prompt: the mean of the vectors, rounded."""
        return [str(round(float(np.mean(self.values["layer.0.prefix.bias"]))))] * len(prompts)

    def export(self, folder: Path) -> None:
        """Write the vectors."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.values, folder / "adapter.safetensors")

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Answer with the initial vectors."""
        kept, self.values = self.values, self.initial
        try:
            yield
        finally:
            self.values = kept

    def detach(self) -> None:
        """There is no base model to leave."""


def _goal(examples: Sequence[Example]) -> float:
    return float(np.mean([_number(example) for example in examples])) if examples else 0.0


def _number(example: Example) -> float:
    """The label; the target's number where there is none, as in a pseudo-labelled example."""
    if example.label is not None:
        return example.label
    return float(example.target) if re.fullmatch(r"-?\d{1,9}", example.target) else 0.0
