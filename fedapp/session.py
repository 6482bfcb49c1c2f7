"""What a client routine may touch: examples, the adapted model, one client's session.

Numpy only. Everything that needs torch stands behind ``AdaptedModel``, so a method can be
tested in milliseconds with ``fedapp.adapters.toy``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from fedapp.settings import require_bool, require_choice, require_int, require_number

if TYPE_CHECKING:
    from fedapp.public_set import PublicSet

Arrays = dict[str, np.ndarray]
"""Named arrays; a name means the same thing in every round and on every client."""

Shapes = dict[str, tuple[int, ...]]
"""Shapes of named arrays: what is known of them without their values."""

Metrics = dict[str, float]
"""Metric names in kebab-case, as Flower's (``train-loss``)."""


@dataclass(frozen=True)
class Example:
    """One prompt with its answer.

    Attributes:
        prompt: What the model reads, template included; interventions act on these tokens only.
        target: The answer that the model should give, without surrounding blanks.
        task: The task family the example belongs to (``sentiment``), for task partitions.
        label: Index into the benchmark's labels where the task is classification.
    """

    prompt: str
    target: str
    task: str = ""
    label: int | None = None


class ClientFailure(RuntimeError):
    """A client cannot take part in this round; the message is shown to the user by the server."""


@dataclass(frozen=True)
class TrainConfig:
    """How an adapter is trained on one client in one round.

    Attributes:
        learning_rate: Peak step size of AdamW.
        batch_size: Examples per optimiser step.
        num_epochs: Passes over the client's training set per round.
        max_steps: Cap on optimiser steps per round; 0 means no cap.
        weight_decay: Decoupled weight decay of AdamW.
        warmup_ratio: Share of the round's steps over which the step size rises linearly.
        schedule: ``constant``, ``linear`` (down to zero at the round's last step) or ``cosine`` (half
            a period, which the warm-up multiplies).
        max_grad_norm: Global gradient-norm clip; 0 means none.
        proximal: Weight mu of FedProx's term mu / 2 * |w - w_start|^2, w_start being what the round's
            training starts from; 0 means none.
        gradient_checkpointing: Keep only the blocks' inputs for the backward pass and compute the
            rest again: less memory for one more forward pass, the same gradients.
        accumulation_steps: Parts in which a batch passes through the model; the optimiser still
            steps once per batch, with the gradient of the whole batch.
        length_grouped: Make batches of examples of similar length, which saves padding.
        max_length: Longest tokenised example, prompt and answer together.
        max_new_tokens: Longest generated answer in tokens.
        eval_batch_size: Examples per forward pass when scoring or generating.
        answers: How a language model answers: ``text`` generates, ``labels`` chooses the benchmark's
            likeliest label word, ``auto`` chooses where there are label words. A classification head
            always chooses.
    """

    learning_rate: float = 4e-3
    batch_size: int = 16
    num_epochs: int = 1
    max_steps: int = 0
    weight_decay: float = 0.0
    warmup_ratio: float = 0.0
    schedule: str = "constant"
    max_grad_norm: float = 1.0
    proximal: float = 0.0
    gradient_checkpointing: bool = False
    accumulation_steps: int = 1
    length_grouped: bool = False
    max_length: int = 256
    max_new_tokens: int = 16
    eval_batch_size: int = 64
    answers: str = "text"

    def __post_init__(self) -> None:
        for name in ("batch_size", "num_epochs", "max_length", "max_new_tokens", "eval_batch_size"):
            require_int(f"train.{name}", getattr(self, name), at_least=1)
        require_int("train.max_steps", self.max_steps, at_least=0)
        require_int("train.accumulation_steps", self.accumulation_steps, at_least=1)
        if self.accumulation_steps > self.batch_size:
            raise ValueError(
                f"train.accumulation_steps={self.accumulation_steps} must not exceed "
                f"train.batch_size={self.batch_size}: a batch is cut into that many parts"
            )
        for name in ("gradient_checkpointing", "length_grouped"):
            require_bool(f"train.{name}", getattr(self, name))
        require_number("train.learning_rate", self.learning_rate, "(0, inf)")
        require_number("train.weight_decay", self.weight_decay, "[0, inf)")
        require_number("train.max_grad_norm", self.max_grad_norm, "[0, inf)")
        require_number("train.proximal", self.proximal, "[0, inf)")
        require_number("train.warmup_ratio", self.warmup_ratio, "[0, 1]")
        require_choice("train.schedule", self.schedule, ("constant", "linear", "cosine"))
        require_choice("train.answers", self.answers, ("auto", "labels", "text"))


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn.

    Attributes:
        temperature: Divides the logits, above 0.
        top_p: Share of the probability that tokens are drawn from, in (0, 1].
        seed: The same seed and the same prompts in the same batches give the same answers.
    """

    temperature: float
    top_p: float
    seed: int


class AdaptedModel(Protocol):
    """A frozen base model with its small trainable part."""

    def parameters(self) -> Arrays:
        """Copy the trainable part, in fp32, under stable names."""

    def shapes(self) -> Shapes:
        """Shapes of ``parameters()``; without values, so it works on the meta device too.

        An adapter that also holds named arrays which it does not train says them with a method
        ``frozen_shapes``.
        """

    def load(self, parameters: Arrays) -> None:
        """Overwrite the named parameters; names not given keep their value.

        Raises:
            ValueError: If a name is unknown or a shape differs; the message says which.
        """

    def reset(self) -> None:
        """Go back to the values that every client starts from (drawn from the run's seed)."""

    def train(self, examples: Sequence[Example], rng: np.random.Generator) -> float:
        """Train for one round; return the mean loss in nats per example.

        Raises:
            ClientFailure: If the loss is not finite.
        """

    def loss(self, examples: Sequence[Example]) -> float:
        """Mean loss over examples in nats per example, forward only, no dropout."""

    def generate(self, prompts: Sequence[str], sampling: Sampling | None = None) -> list[str]:
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


class ContextModel(AdaptedModel, Protocol):
    """A frozen base model that reads demonstrations into vectors and is steered by them.

    Its parameters are ``coefficients`` [num_layers, 2, 2 or 1] and, once loaded, ``context-vectors``
    [num_layers, 2, hidden_size]; the vectors are never trained.
    """

    def encode(self, examples: Sequence[Example]) -> np.ndarray:
        """What the model makes of the examples as demonstrations, [num_layers, 2, hidden_size], fp32."""

    def moments(self) -> Arrays:
        """What the optimiser of the last ``train`` remembers; empty before any."""

    def resume(self, moments: Arrays) -> None:
        """Let the next ``train`` start from these moments; empty ones are a fresh optimiser's."""


class Adapter(Protocol):
    """The ``adapter:`` node of a method: how to make a base model trainable."""

    def attach(self, base: Any, train: TrainConfig, *, seed: int) -> AdaptedModel:
        """Add the trainable part to a base model (``fedapp.models.Base``).

        The same seed gives the same initial parameters on every client.
        """


@dataclass
class ClientSession:
    """All that a routine may touch while it serves one message.

    Attributes:
        client_id: Stable number of the client (its partition id).
        server_round: Round of the message, from 1; 0 for an exchange that a method needs before them.
        model: Base with adapter, reset to the run's initial parameters.
        train_set, val_set, test_set: The client's own data: choose on val_set, report on test_set.
        state: The only memory between rounds; what stands here after the message is kept.
        rng: Seeded by (seed, client_id, server_round).
        metrics: What the routine measured beside its loss.
        scorer: Scores the model as it stands: ``scorer(model_name, moment)``.
        metric: The benchmark's main metric of the model as it stands on some examples.
        public: The public prompts, where the routine asks for them (``needs_public_prompts``).
    """

    client_id: int
    server_round: int
    model: AdaptedModel
    train_set: Sequence[Example]
    val_set: Sequence[Example]
    test_set: Sequence[Example]
    state: Arrays
    rng: np.random.Generator
    metrics: Metrics = field(default_factory=dict)
    scorer: Callable[[str, str], None] | None = None
    metric: Callable[[Sequence[Example]], float] | None = None
    public: PublicSet | None = None

    def score(self, model: str, moment: str) -> None:
        """Put the model, as it stands, into the run's metrics (if the run asks for it).

        Args:
            model: ``own``, ``aggregated``, ``mixed`` or ``final``.
            moment: ``before`` or ``after`` local training.
        """
        if self.scorer is not None:
            self.scorer(model, moment)

    def measure(self, examples: Sequence[Example]) -> float:
        """The benchmark's main metric of the model as it stands; larger is better."""
        if self.metric is None:
            raise ClientFailure("this session has no benchmark to measure with")
        return self.metric(examples)
