"""What an adapted model can do; everything that needs torch stands behind these protocols."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from fedapp.core.train_config import TrainConfig
from fedapp.core.types import Arrays, Decoding, Example, Shapes

COEFFICIENTS, VECTORS = "coefficients", "context-vectors"


@runtime_checkable
class AdaptedModel(Protocol):
    """A frozen base model with its small trainable part."""

    def parameters(self) -> Arrays:
        """Copy the trainable part, in fp32, under stable names."""

    def shapes(self) -> Shapes:
        """Shapes of ``parameters()``; without values, so it works on the meta device too."""

    def frozen_shapes(self) -> Shapes:
        """Shapes of named arrays that the adapter also holds and does not train."""
        return {}

    def load(self, parameters: Arrays) -> None:
        """Overwrite the named parameters; names not given keep their value.

        Raises:
            ValueError: If a name is unknown or a shape differs; the message says which.
        """

    def reset(self) -> None:
        """Go back to the values that every client starts from (drawn from the run's seed)."""

    def train(self, examples: Sequence[Example], rng: np.random.Generator) -> float:
        """Train for one round; return the mean loss in nats per example, NaN where nothing is trained.

        Raises:
            ClientFailure: If the loss is not finite.
        """

    def loss(self, examples: Sequence[Example]) -> float:
        """Mean loss over examples in nats per example, forward only, no dropout."""

    def generate(self, prompts: Sequence[str], decoding: Decoding | None = None) -> list[str]:
        """Answer each prompt, greedily unless told how to sample: a text, or the label of a classifier."""

    def export(self, folder: Path) -> None:
        """Write the adapter in its own library's format (pyreft, peft)."""

    def disabled(self) -> AbstractContextManager[None]:
        """While open, the model answers as the base alone does."""

    def detach(self) -> None:
        """Leave the base model as it was before ``attach``."""


@runtime_checkable
class LowRankModel(AdaptedModel, Protocol):
    """An adapted model whose adapter adds a product B A to weights of the base.

    Factors are named ``<layer>.lora_A`` ``[rank, in]`` and ``<layer>.lora_B`` ``[out, rank]``; the
    adapter's scale is part of B, so B A is what is added. ``parameters`` and ``load`` also know the
    merged updates, fp32 ``[out, in]`` under ``<layer>.merged``; ``reset`` takes them out.
    """

    def factors(self) -> Arrays:
        """Copy both factors of every update."""

    def load_factors(self, factors: Arrays) -> None:
        """Overwrite the named layers' factors; their ranks are the adapter's.

        Raises:
            ValueError: If a layer is unknown or a shape differs.
        """

    def merge(self, factors: Arrays) -> None:
        """Add B A, of any rank, to the frozen weights.

        Raises:
            ValueError: If a layer is unknown or a size differs.
        """

    def redraw(self, rng: np.random.Generator) -> None:
        """Start a fresh update: A drawn, B zero."""


@runtime_checkable
class SubspaceModel(AdaptedModel, Protocol):
    """An adapted model whose updates are B R A: R is trained, B and A are the same on all clients."""

    def estimate(self, examples: Sequence[Example], rng: np.random.Generator) -> Arrays:
        """What the client's first step says about the subspace; empty where no data are needed.

        Returns:
            For each layer ``<layer>.sb_B`` [size_out, rank] and ``<layer>.sb_A`` [rank, size_in], fp32.
        """


@runtime_checkable
class RatingModel(AdaptedModel, Protocol):
    """An adapted model that can rate answers."""

    def log_likelihoods(self, examples: Sequence[Example]) -> list[float]:
        """Of each example's answer, nats per token."""


@runtime_checkable
class ChoosingModel(AdaptedModel, Protocol):
    """An adapted model that can say how likely each of several answers is."""

    def rate_options(self, examples: Sequence[Example]) -> list[list[float]]:
        """Log-likelihood of each example's options behind its prompt, nats, summed over an option's tokens.

        The option alone: the end of the sequence behind it is not counted.
        """


@runtime_checkable
class ConversingModel(AdaptedModel, Protocol):
    """An adapted model that may answer within a conversation."""

    def converses(self) -> bool:
        """Whether it does: its prompts are turns of a chat, its answers free text."""

    def reply(self, turns: Sequence[str], decoding: Decoding | None = None) -> tuple[str, int]:
        """Answer the last turn of a conversation.

        Args:
            turns: The user's and the model's words by turns, the user's first and last.
            decoding: As ``generate``.

        Returns:
            The answer, and how many turns at the start were left out, as the model's window is full.
        """


@runtime_checkable
class ContextModel(AdaptedModel, Protocol):
    """A frozen base model that reads demonstrations into vectors and is steered by them.

    Its parameters are ``coefficients`` [num_layers, 2, 2 or 1] and, once loaded, ``context-vectors``
    [num_layers, 2, hidden_size]; the vectors are never trained.

    Attributes:
        labels: The benchmark's label words.
    """

    labels: tuple[str, ...]

    def encode(self, examples: Sequence[Example]) -> np.ndarray:
        """What the model makes of the examples as demonstrations, [num_layers, 2, hidden_size], fp32."""

    def moments(self) -> Arrays:
        """What the optimiser of the last ``train`` remembers; empty before any."""

    def resume(self, moments: Arrays) -> None:
        """Let the next ``train`` start from these moments; empty ones are a fresh optimiser's."""


@runtime_checkable
class AnsweringBase(Protocol):
    """A base that answers by itself: a service, a model behind an interface."""

    def generate(self, prompts: Sequence[str]) -> list[str]:
        """An answer to each prompt."""


class Adapter(Protocol):
    """The ``adapter:`` node of a method: how to make a base model trainable."""

    def attach(self, base: Any, train: TrainConfig, *, seed: int) -> AdaptedModel:
        """Add the trainable part to a base model (``fedapp.models.base.Base``).

        The same seed gives the same initial parameters on every client.
        """
