"""What adapters that a ``Trainer`` runs have in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedapp.adapters.training import Trainer
from fedapp.core.types import Example, Sampling


class Trained:
    """The part of ``fedapp.core.model.AdaptedModel`` that is the trainer's."""

    trainer: Trainer

    def train(self, examples: Sequence[Example], rng: np.random.Generator) -> float:
        """Train for one round; see ``Trainer.train``."""
        return self.trainer.train(examples, rng)

    def loss(self, examples: Sequence[Example]) -> float:
        """Mean loss in nats per example, forward only."""
        return self.trainer.loss(examples)

    def generate(self, prompts: Sequence[str], sampling: Sampling | None = None) -> list[str]:
        """Answer each prompt; see ``Trainer.generate``."""
        return self.trainer.generate(prompts, sampling)

    def log_likelihoods(self, examples: Sequence[Example]) -> list[float]:
        """Of each example's answer, nats per token."""
        return self.trainer.log_likelihoods(examples)
