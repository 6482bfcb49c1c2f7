"""Clients whose model answers but is not trained: a frozen base, or anything that has ``generate``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fedapp.core.model import AnsweringBase
from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Arrays, Decoding, Example, Shapes


@dataclass(frozen=True)
class BlackBox:
    """Adds nothing: such a client votes with its answers and learns nothing.

    The base is a ``fedapp.models.base.Base``, or any object with ``generate(prompts) -> answers`` (a
    service, a model behind an interface), such as ``fedapp.models.answer_file.AnswerFile``.
    """

    def attach(self, base: Any, train: TrainConfig, *, seed: int) -> BlackBoxModel:
        """Take the base as it is."""
        return BlackBoxModel(base, train)


class BlackBoxModel:
    """Implements ``fedapp.core.model.AdaptedModel`` without a trainable part."""

    def __init__(self, base: Any, train: TrainConfig) -> None:
        """Note how to ask the base."""
        self.base = base
        self._trainer: Any = None
        if not isinstance(base, AnsweringBase):
            from fedapp.training.trainer import Trainer

            self._trainer = Trainer(base, train, decayed=[])

    def parameters(self) -> Arrays:
        """None."""
        return {}

    def frozen_shapes(self) -> Shapes:
        """Nothing is held beside what is trained."""
        return {}

    def shapes(self) -> Shapes:
        """Nothing is trained."""
        return {}

    def load(self, parameters: Arrays) -> None:
        """Refuse anything.

        Raises:
            ValueError: If there is a parameter to load.
        """
        if parameters:
            raise ValueError(f"parameter {next(iter(parameters))!r}: a black box has no parameters")

    def reset(self) -> None:
        """There is nothing that could have changed."""

    def train(self, examples: Sequence[Example], rng: np.random.Generator) -> float:
        """Nothing is trained, so no row is read and there is no loss (NaN)."""
        return float("nan")

    def loss(self, examples: Sequence[Example]) -> float:
        """Mean loss in nats per example; NaN where the base only answers."""
        return float(self._trainer.loss(examples)) if self._trainer else float("nan")

    def generate(self, prompts: Sequence[str], decoding: Decoding | None = None) -> list[str]:
        """The base's own answers; one that is not ours to steer samples or not as it likes."""
        if self._trainer:
            return self._trainer.generate(prompts, decoding)
        return [str(answer) for answer in self.base.generate(list(prompts))]

    def export(self, folder: Path) -> None:
        """There is no adapter to write."""
        folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """The base is all there is."""
        yield

    def detach(self) -> None:
        """The base was left as it is."""
