"""What adapters that a ``Trainer`` runs have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from fedapp.adapters.head import Head
from fedapp.core.types import Arrays, Decoding, Example, Shapes
from fedapp.models.base import Base
from fedapp.training.decoding import newest_turns
from fedapp.training.tokens import Encoded
from fedapp.training.trainer import Trainer


class TrainedModel:
    """The part of ``fedapp.core.model.AdaptedModel`` that is the trainer's."""

    trainer: Trainer

    def frozen_shapes(self) -> Shapes:
        """No named arrays beside the trained ones."""
        return {}

    def train(self, examples: Sequence[Example], rng: np.random.Generator) -> float:
        """Train for one round; see ``Trainer.train``."""
        return self.trainer.train(examples, rng)

    def loss(self, examples: Sequence[Example]) -> float:
        """Mean loss in nats per example, forward only."""
        return self.trainer.loss(examples)

    def generate(self, prompts: Sequence[str], decoding: Decoding | None = None) -> list[str]:
        """Answer each prompt; see ``Trainer.generate``."""
        return self.trainer.generate(prompts, decoding)

    def converses(self) -> bool:
        """Whether earlier turns mean anything: prompts are turns of a chat, answers are free text."""
        return self.trainer.encoder.chat is not None and self.trainer.words is None

    def reply(self, turns: Sequence[str], decoding: Decoding | None = None) -> tuple[str, int]:
        """Answer the last turn of a conversation; see ``fedapp.core.model.ConversingModel``."""
        row, left_out = newest_turns(self.trainer.encoder, turns)
        return self.trainer.answer([row], turns[-1:], decoding)[0], left_out

    def log_likelihoods(self, examples: Sequence[Example]) -> list[float]:
        """Of each example's answer, nats per token."""
        return self.trainer.log_likelihoods(examples)

    def rate_options(self, examples: Sequence[Example]) -> list[list[float]]:
        """Log-likelihoods of each example's options; see ``Trainer.rate_options``."""
        return self.trainer.rate_options(examples)

    def rate_rows(self, rows: Sequence[Encoded]) -> list[tuple[float, bool]]:
        """Of tokens behind prompts of tokens; see ``Trainer.rate``."""
        return self.trainer.rate(rows)


class Removable(Protocol):
    """A hook, or several, that can be taken off a model."""

    def remove(self) -> None:
        """Take it off."""


_MARK = "_fedapp_adapter"


def claim(base: Base, owner: str) -> None:
    """Mark a base as carrying an adapter.

    Raises:
        ValueError: If it carries one already: two would train each other's parts.
    """
    other = vars(base.model).get(_MARK)
    if other:
        raise ValueError(
            f"the base model ({base.path or 'in memory'}) already carries a {other} adapter: detach it first"
        )
    setattr(base.model, _MARK, owner)


def release(base: Base) -> None:
    """Undo ``claim``: the model carries no mark."""
    vars(base.model).pop(_MARK, None)


def as_tensors(parameters: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Turn received arrays into fp32 tensors.

    Args:
        parameters: Named arrays, any float dtype.
        shapes: What the adapter has, by name.

    Raises:
        ValueError: If a name is unknown, a shape differs or a value is not finite.
    """
    result = {}
    for name, value in parameters.items():
        if name not in shapes:
            known = ", ".join(sorted(shapes)[:3])
            raise ValueError(f"unknown parameter {name!r}: this adapter has {len(shapes)} ({known} …)")
        if tuple(np.shape(value)) != tuple(shapes[name]):
            raise ValueError(
                f"parameter {name!r} has shape {tuple(np.shape(value))}, "
                f"this adapter needs {tuple(shapes[name])}"
            )
        array = np.array(value, dtype=np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"parameter {name!r} holds values that are not finite")
        result[name] = torch.from_numpy(array)
    return result


class HookedModel(TrainedModel):
    """A frozen base with hooks and named parameters; implements ``fedapp.core.model.AdaptedModel``.

    Parameters are of two kinds. *Trained* ones always belong to ``parameters()``, with the base's
    classification head. *Frozen* ones are only ever loaded (another party decides them); they belong to
    ``parameters()`` once they are, so that a client's memory and a kept adapter are complete. All are
    fp32 over a base in any dtype.

    Attributes:
        trained, frozen: Tensors by name, of any shape.
        head: The base's classification head; empty for a language model.
        hooks: Whatever ``detach`` must remove from the base.
        loaded: Names of frozen tensors that were loaded since the last reset.
        enabled: False while ``disabled`` is open.
    """

    def __init__(self, owner: str, base: Base, trainer: Trainer) -> None:
        """Claim the base; all that can be refused has been looked at before, so it stays as it was.

        Args:
            owner: What kind of adapter it is, for error messages.
            base: The base model.
            trainer: Trains the adapter's own tensors; ``hold`` adds the head's.

        Raises:
            ValueError: If the base carries an adapter already.
        """
        claim(base, owner)
        self.base, self.trainer = base, trainer
        self.head = Head(base)
        self.hooks: list[Removable] = []
        self.loaded: set[str] = set()
        self.enabled = True

    def hold(
        self,
        trained: Mapping[str, Tensor],
        frozen: Mapping[str, Tensor] | None = None,
        toggled: Sequence[nn.Module] = (),
    ) -> None:
        """Name the parameters; as they stand, ``reset`` brings them back.

        Args:
            trained: What is trained, of any shape; views of larger tensors may stand for their parts.
            frozen: What is only loaded, of any shape.
            toggled: Modules that are in training mode while a round trains (their dropout).
        """
        self.trained = dict(trained)
        self._initial = {name: value.detach().clone() for name, value in self.trained.items()}
        self.frozen, self._frozen_initial = dict(frozen or {}), dict(frozen or {})
        self.trainer.extend(list(self.head.tensors.values()), [*toggled, *self.head.modules])

    def parameters(self) -> Arrays:
        """Copy the trained part, and of the frozen one what has been loaded, in their own shapes."""
        frozen = {name: value for name, value in self.frozen.items() if name in self.loaded}
        everything = {**self.trainable(), **frozen}
        return {name: value.detach().cpu().numpy().copy() for name, value in everything.items()}

    def shapes(self) -> Shapes:
        """Shapes of the trained part."""
        return {name: tuple(value.shape) for name, value in self.trainable().items()}

    def frozen_shapes(self) -> Shapes:
        """Shapes of what can be loaded beside it and counts as the adapter's."""
        return self.loadable()

    def loadable(self) -> Shapes:
        """Shapes of what can be loaded beside the trained part."""
        return {name: tuple(value.shape) for name, value in self.frozen.items()}

    def load(self, parameters: Arrays) -> None:
        """Overwrite the named parameters; their shapes are those of ``shapes`` and ``loadable``.

        Raises:
            ValueError: If a name is unknown, a shape differs or a value is not finite.
        """
        trainable = self.trainable()
        given = as_tensors(parameters, self.shapes() | self.loadable())
        self.keep({name: value for name, value in given.items() if name not in trainable})
        with torch.no_grad():
            for name in given.keys() & trainable.keys():
                trainable[name].copy_(given[name])

    def keep(self, given: Mapping[str, Tensor]) -> None:
        """Take over what was loaded beside the trained part, fp32, shapes as ``loadable`` says."""
        for name, value in given.items():
            self.frozen[name] = value.to(self.base.device)
            self.loaded.add(name)

    def reset(self) -> None:
        """Go back to the seed's values, with nothing loaded."""
        with torch.no_grad():
            for name, value in self._initial.items():
                self.trained[name].copy_(value)
        self.frozen = dict(self._frozen_initial)
        self.loaded.clear()
        self.head.reset()

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """While open, the model answers as the base alone does, its head untrained."""
        self.enabled = False
        try:
            with self.head.untrained():
                yield
        finally:
            self.enabled = True

    def detach(self) -> None:
        """Remove the hooks; the base is bit for bit what it was."""
        for hook in self.hooks:
            hook.remove()
        self.hooks = []
        self.head.release()
        release(self.base)

    def trainable(self) -> dict[str, Tensor]:
        """Trained tensors by name, of any shape, the head's with them."""
        return {**self.trained, **self.head.tensors}
